"""Building data sets: sources, hold-outs and the check for leaks, deduplication, seeds, lengths."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from masa.errors import MasaError
from masa.languages import parse_blocks
from masa.skills import GENERAL
from masa_training.dataset import Dataset
from masa_training.dataset.build import build_dataset
from masa_training.dataset.cells import EvolvedCell, read_published
from masa_training.dataset.config import Banks, Counts, Holdout, Holdouts, Places, load_config
from masa_training.dataset.data_card import data_card
from masa_training.dataset.folder import SPLITS
from masa_training.dataset.holdouts import check_leaks, check_targets, may_read, split_cells
from masa_training.errors import TrainingError
from masa_training.samples import Sample, dumps_sample, loads_sample
from tests.training.dataset_banks import (
    CONFIG,
    ByteBase,
    chain,
    dataset_config,
    edit,
    group,
    made_skills,
    plan,
    run_event,
    skill,
    write_banks,
    write_config,
    write_run,
)


@pytest.fixture(scope="module")
def banks_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_banks(tmp_path_factory.mktemp("banks"))


def built(folder: Path, text: str = CONFIG, **changes: object) -> Dataset:
    config = replace(dataset_config(text), **changes)  # type: ignore[arg-type]
    return build_dataset(config, Places(folder, None), ByteBase())


def cells_of(folder: Path) -> list[EvolvedCell]:
    config = dataset_config(CONFIG)
    return [c for banks in config.sources.banks for c in read_published(banks, Places(folder, None)).cells]


@pytest.fixture(scope="module")
def toy(banks_folder: Path) -> Dataset:
    return built(banks_folder)


# --- what is in it ---------------------------------------------------------------------------------


def test_every_source_gives_its_number_of_samples_for_each_training_cell(toy: Dataset) -> None:
    by_cell = Counter((s.cell, s.source) for s in toy.train)
    # home: general and clean, shop: general, shoes and lamps, three backbones each.
    assert len({cell for cell, _ in by_cell}) == 15
    for (_, source), number in by_cell.items():
        assert number == {"intermediate": 1, "other backbone": 2, "adapter": 2, "augmented": 2}[source]
    assert {s.source for s in toy.test} == {"intermediate", "other backbone", "adapter"}


def test_the_target_is_always_the_evolved_group_of_the_cell(toy: Dataset, banks_folder: Path) -> None:
    evolved = {c.cell: c.evolved for c in cells_of(banks_folder)}
    for split in SPLITS:
        for sample in toy.split(split):
            blocks = parse_blocks(sample.target, len(sample.request.group))
            assert [(b.title, b.when_to_apply, b.principle) for b in blocks] == [
                (s.title, s.when_to_apply, s.principle) for s in evolved[sample.cell].skills
            ]


def test_an_input_of_another_backbone_or_adapter_is_that_group_and_says_whose(toy: Dataset) -> None:
    for sample in toy.train:
        text = sample.request.group.skills[0].principle
        if sample.source == "other backbone":
            assert sample.tags["of"] != sample.backbone
            assert f"evolved of {sample.tags['of'].split('-')[1].lower()}" in text
        if sample.source == "adapter":
            assert f"adapter of {sample.tags['of'].split('-')[1].lower()}" in text
    own = Counter(s.cell for s in toy.train if s.source == "adapter" and s.tags["of"] == s.backbone)
    assert set(own.values()) == {1} and len(own) == 15


def test_a_sample_carries_card_description_origin_and_comes_back_from_its_line(toy: Dataset) -> None:
    sample = next(s for s in toy.train if s.environment == "home")
    assert sample.request.environment == "a small home" and sample.origin == "toy banks for home"
    assert str(sample.request.card["weaknesses"]).endswith(sample.backbone.split("-")[1].lower())
    for each in toy.train:
        assert loads_sample(dumps_sample(each)) == each


def test_card_variants_write_each_training_sample_once_per_variant(banks_folder: Path) -> None:
    dataset = built(banks_folder, card_variants=("full", "no hints", "short"))
    assert set(Counter(s.tags["card"] for s in dataset.train).values()) == {15 * 7}
    for sample in dataset.train:
        fields = set(sample.request.card)
        assert ("weaknesses" in fields) == (sample.tags["card"] != "no hints")
        assert ("num_layers" in fields) == (sample.tags["card"] != "short")
    assert {s.tags["card"] for s in dataset.test} == {"full"}


def test_ids_are_unique_and_the_record_tells_what_was_left_out(toy: Dataset) -> None:
    ids = [s.id for split in SPLITS for s in toy.split(split)]
    assert len(ids) == len(set(ids))
    assert len(toy.info.left_out["the evolved bank lacks the group"]) == 6
    assert toy.info.cards["Toy-1B"]["num_layers"] == 1
    assert not toy.info.synthetic and toy.info.licence == "CC0-1.0"


# --- seeds and duplicates --------------------------------------------------------------------------


def test_the_same_seed_gives_the_same_data_set_and_another_seed_another(banks_folder: Path, toy: Dataset) -> None:
    assert built(banks_folder) == toy
    other = built(banks_folder, seed=1)
    assert other.info.sha256 != toy.info.sha256
    assert {s.cell for s in other.train} == {s.cell for s in toy.train}


@settings(max_examples=3, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_no_two_samples_of_a_split_are_the_same_conversation(banks_folder: Path, seed: int) -> None:
    dataset = built(banks_folder, seed=seed, samples=Counts(intermediate=1, other_backbone=2, adapter=3, augmented=9))
    for split in SPLITS:
        texts = [dumps_sample(s)[len(s.id) + 10 :].split('"prompt_version"')[0] for s in dataset.split(split)]
        assert len(texts) == len(set(texts))


def test_equal_inputs_become_one_sample_and_the_other_is_counted(tmp_path: Path) -> None:
    write_banks(tmp_path)
    adapter = json.loads((tmp_path / "banks/home/1b_adapter.json").read_text())
    edit(
        tmp_path / "banks/home/2b_adapter.json",
        lambda value: value["task_specific_skills"].update(clean=adapter["task_specific_skills"]["clean"]),
    )
    dataset = built(tmp_path, samples=Counts(intermediate=0, other_backbone=0, adapter=3, augmented=0))
    of_clean = [s for s in dataset.train if s.cell.group == "clean"]
    assert len(of_clean) == 3 * 2
    assert len(dataset.info.left_out["the same prompt and target as another sample"]) == 3


# --- hold-outs -------------------------------------------------------------------------------------


def test_held_out_task_types_are_out_of_training_entirely(toy: Dataset) -> None:
    assert {s.cell.group for s in toy.test} == {"heat"}
    assert {s.cell.group for s in toy.validation} == {"fetch"}
    assert {s.cell.group for s in toy.train} == {GENERAL, "clean", "shoes", "lamps"}
    everything = "".join(map(dumps_sample, toy.train))
    assert "for heat" not in everything and "in heat" not in everything and "the soup" not in everything


def test_a_held_out_backbone_gives_training_neither_targets_nor_inputs(banks_folder: Path) -> None:
    dataset = built(
        banks_folder, holdouts=Holdouts(test=Holdout(backbones=("Toy-3B",)), validation=Holdout(task_types=("fetch",)))
    )
    for split in ("train", "validation"):
        assert "of 3b" not in "".join(map(dumps_sample, dataset.split(split)))
    assert {s.backbone for s in dataset.test} == {"Toy-3B"}


def test_a_held_out_environment_gives_training_nothing(banks_folder: Path) -> None:
    dataset = built(banks_folder, holdouts=Holdouts(test=Holdout(environments=("shop",))))
    assert {s.environment for s in dataset.train} == {"home"} and {s.environment for s in dataset.test} == {"shop"}
    assert "shop" not in "".join(map(dumps_sample, dataset.train)) and not dataset.validation


def test_a_cell_in_both_hold_outs_is_a_test_cell(banks_folder: Path) -> None:
    parts = split_cells(
        cells_of(banks_folder), Holdouts(test=Holdout(backbones=("Toy-1B",)), validation=Holdout(task_types=("heat",)))
    )
    assert {c.cell.backbone for c in parts["validation"]} == {"Toy-2B", "Toy-3B"}
    assert sum(len(part) for part in parts.values()) == len(cells_of(banks_folder))


@pytest.mark.parametrize(
    ("test", "validation", "said"),
    [
        (Holdout(), Holdout(task_types=("heat",)), "leave no test cell"),
        (Holdout(environments=("home", "shop")), Holdout(), "leave no training cell"),
        (Holdout(task_types=("heat",)), Holdout(task_types=("heat",)), "leave no validation cell"),
        (Holdout(task_types=("haet",)), Holdout(), "holdouts.test.task_types: no cell has 'haet'; did you mean 'heat'"),
        (Holdout(backbones=("GPT",)), Holdout(), "no cell has 'GPT'; there are Toy-1B, Toy-2B, Toy-3B"),
    ],
)
def test_a_hold_out_that_leaves_nothing_or_names_nothing_is_one_sentence(
    banks_folder: Path, test: Holdout, validation: Holdout, said: str
) -> None:
    with pytest.raises(TrainingError, match=said) as error:
        built(banks_folder, holdouts=Holdouts(test=test, validation=validation))
    assert "\n" not in str(error.value)


def test_samples_see_what_was_found_in_their_own_split_or_one_before() -> None:
    assert [[may_read(reader, giver) for giver in SPLITS] for reader in SPLITS] == [
        [True, False, False],
        [True, True, False],
        [True, True, True],
    ]


# --- planted leaks ---------------------------------------------------------------------------------


def planted(folder: Path, where: str, text: str) -> None:
    """Put a text into the bank file `where` (for 2b, group clean, which is trained on)."""
    edit(folder / where, lambda bank: bank["task_specific_skills"]["clean"].append(skill("leak", text)))


@pytest.mark.parametrize("where", ["banks/home/2b_adapter.json", "banks/home/2b_evolved.json", "banks/home/base.json"])
@pytest.mark.parametrize("wrapped", [False, True])
def test_a_skill_of_a_held_out_target_anywhere_in_training_is_found(tmp_path: Path, where: str, wrapped: bool) -> None:
    write_banks(tmp_path)
    secret = f"{made_skills('heat', '3b', 'evolved')[1]['principle']} It holds in the home."
    planted(tmp_path, where, f"As they say:\n{secret.upper()} So be it." if wrapped else secret)
    with pytest.raises(TrainingError, match=r"leak: the skill .* held-out cell home/Toy-3B/heat occurs in train"):
        built(tmp_path, samples=Counts(intermediate=1, other_backbone=2, adapter=3, augmented=0))


def test_a_skill_that_evolution_left_as_it_was_is_no_leak(tmp_path: Path) -> None:
    write_banks(tmp_path)
    common = skill("common", "Do one thing after the other, whatever the task may be.")
    for name in ("base.json", "3b_evolved.json"):
        edit(tmp_path / "banks/home" / name, lambda bank: bank["task_specific_skills"]["heat"].append(common))
    planted(tmp_path, "banks/home/base.json", common["principle"])
    built(tmp_path)


def test_a_training_sample_of_a_held_out_cell_is_found(toy: Dataset, banks_folder: Path) -> None:
    parts = split_cells(cells_of(banks_folder), dataset_config(CONFIG).holdouts)
    check_leaks(parts, {split: toy.split(split) for split in SPLITS}, "text")
    for split in ("train", "validation"):
        with pytest.raises(TrainingError, match=rf"leak: {split} sample .* held-out cell home/Toy-"):
            check_leaks(parts, {split: [*toy.split(split), toy.test[0]]}, "text")


@settings(max_examples=10, deadline=None)
@given(data=st.data())
def test_any_held_out_skill_in_any_training_sample_is_found(
    data: st.DataObject, toy: Dataset, banks_folder: Path
) -> None:
    parts = split_cells(cells_of(banks_folder), dataset_config(CONFIG).holdouts)
    cell = data.draw(st.sampled_from([*parts["test"], *parts["validation"]]))
    found = data.draw(st.sampled_from(cell.evolved.skills))
    victim = data.draw(st.sampled_from(toy.train))
    leaking = replace(victim.request.group, skills=(*victim.request.group.skills, found))
    samples: list[Sample] = [*toy.train, replace(victim, request=replace(victim.request, group=leaking))]
    with pytest.raises(TrainingError, match="leak"):
        check_leaks(parts, {"train": samples}, "text")


def test_two_cells_with_the_same_evolved_group_are_named(tmp_path: Path) -> None:
    write_banks(tmp_path)
    same = (tmp_path / "banks/home/1b_evolved.json").read_text()
    (tmp_path / "banks/home/2b_evolved.json").write_text(same)
    with pytest.raises(TrainingError, match=r"home/Toy-1B/general_skills \(train\) and home/Toy-2B/general_skills"):
        built(tmp_path)
    parts = split_cells(cells_of(tmp_path), Holdouts(test=Holdout(task_types=("heat",)), validation=Holdout()))
    check_targets(parts, "plan")
    parts = split_cells(cells_of(tmp_path), Holdouts(test=Holdout(backbones=("Toy-2B",)), validation=Holdout()))
    with pytest.raises(TrainingError, match="the same text"):
        check_targets(parts, "plan")


# --- other bad input -------------------------------------------------------------------------------


def test_a_sample_over_the_context_is_an_error_with_its_id_and_both_numbers(banks_folder: Path, toy: Dataset) -> None:
    longest = toy.info.tokens["train"]["total"]["max"]
    built(banks_folder, context_length=longest)
    with pytest.raises(TrainingError, match=rf"sample \S+/\S+ has {longest} tokens .*context_length is {longest - 1}"):
        built(banks_folder, context_length=longest - 1)


def test_a_context_beyond_that_of_the_base_is_an_error(banks_folder: Path) -> None:
    with pytest.raises(TrainingError, match="context_length is 20000"):
        build_dataset(dataset_config(CONFIG), Places(banks_folder, None), ByteBase(context_length=100))


def test_an_environment_that_is_given_twice_is_an_error(tmp_path: Path) -> None:
    config, places = load_config(str(write_config(tmp_path)))
    banks: Banks = config.sources.banks[0]
    twice = replace(config, sources=replace(config.sources, banks=(banks, banks)))
    with pytest.raises(TrainingError, match="home/Toy-1B/general_skills"):
        build_dataset(twice, places, ByteBase())


def test_half_a_surrogate_pair_is_an_error_and_no_crash(tmp_path: Path) -> None:
    write_banks(tmp_path)
    planted(tmp_path, "banks/home/2b_adapter.json", "Half \ud800 of it.")
    with pytest.raises(TrainingError, match=r"surrogate pair .* correct it in toy banks for home"):
        built(tmp_path, samples=Counts(intermediate=1, other_backbone=2, adapter=3, augmented=0))


# --- runs ------------------------------------------------------------------------------------------

RUNS = """\
name: plans
language: plan
kind: runs
sources: {runs: [one, two]}
samples: {intermediate: 9}
holdouts: {test: {task_types: [heat]}}
context_length: 20000
"""
_STEPS = [plan("shorten", "keep", "keep"), plan("keep", "emphasise", "keep"), plan("keep", "keep", "drop")]


def write_runs(folder: Path) -> None:
    for number, name in enumerate(("one", "two"), start=1):
        events = [run_event(f"Toy-{number}B", licence="CC0-1.0")]
        for key in ("clean", "heat", "fetch"):
            events += chain(key, _STEPS[: number + 1])
        write_run(folder / name, events)


def test_plans_come_from_recorded_edits_and_lead_to_the_best_group(tmp_path: Path) -> None:
    write_runs(tmp_path)
    dataset = built(tmp_path, RUNS)
    assert Counter(s.backbone for s in dataset.train) == {"Toy-1B": 4, "Toy-2B": 6}
    assert {s.source for s in dataset.train} == {"intermediate"} and {s.cell.group for s in dataset.test} == {"heat"}
    first = next(s for s in dataset.train if s.cell == ("home", "Toy-2B", "clean") and s.tags["input"] == "clean-0")
    assert first.target == "1 shorten\n2 emphasise\n3 drop"
    assert dataset.info.licence == "CC0-1.0" and not dataset.info.synthetic
    assert dataset.info.origins == {"one": "CC0-1.0", "two": "CC0-1.0"}


def test_plan_samples_that_show_a_held_out_result_are_left_out_and_counted(tmp_path: Path) -> None:
    """What Toy-1B's search found best, Toy-2B's search passed on its way: no input where Toy-1B is held out."""
    write_runs(tmp_path)
    dataset = built(tmp_path, RUNS, holdouts=Holdouts(test=Holdout(backbones=("Toy-1B",))))
    assert Counter(s.cell.group for s in dataset.train) == {"clean": 2, "heat": 2, "fetch": 2}
    assert dataset.info.left_out["the input is the evolved group of a held-out cell"] == (
        ["home/Toy-2B/clean/clean-2", "home/Toy-2B/heat/heat-2", "home/Toy-2B/fetch/fetch-2"]
    )


def test_runs_give_text_samples_by_the_same_reader(tmp_path: Path) -> None:
    write_runs(tmp_path)
    dataset = built(tmp_path, RUNS.replace("language: plan", "language: text"))
    assert {s.source for s in dataset.train} == {"intermediate", "other backbone", "augmented"}
    assert {s.tags["stage"] for s in dataset.train if s.source == "intermediate"} == {"early", "middle", "late"}


def test_searches_of_one_cell_that_began_with_other_groups_are_all_taken(tmp_path: Path) -> None:
    once = [run_event(), *chain("heat", _STEPS[:2]), *chain("clean", _STEPS[:2])]
    write_run(tmp_path / "one", once)
    write_run(tmp_path / "two", [run_event(), *chain("clean", _STEPS[:2], start=group("fetch"))])
    dataset = built(tmp_path, RUNS)
    ids = {sample.id for sample in dataset.train}
    assert {"home/Toy-1B/clean/intermediate/1", "home/Toy-1B/clean/start-2/intermediate/1"} <= ids
    write_run(tmp_path / "two", once)
    with pytest.raises(TrainingError, match="home/Toy-1B/heat"):
        built(tmp_path, RUNS)


def test_cards_of_runs_may_be_given_in_files(tmp_path: Path) -> None:
    write_runs(tmp_path)
    (tmp_path / "card.yaml").write_text("family: Toy\nweaknesses: loses the thread\n")
    sources = "{runs: [one, two], cards: {Toy-1B: card.yaml}}"
    dataset = built(tmp_path, RUNS.replace("{runs: [one, two]}", sources))
    said = {s.backbone: s.request.card.get("weaknesses") for s in dataset.train}
    assert said["Toy-1B"] == "loses the thread" != said["Toy-2B"]
    assert dataset.info.cards["Toy-1B"]["weaknesses"] == "loses the thread"
    with pytest.raises(TrainingError, match="names Toy-9B, for"):
        built(tmp_path, RUNS.replace("{runs: [one, two]}", sources.replace("Toy-1B", "Toy-9B")))
    with pytest.raises(TrainingError, match=r"sources.cards.Toy-1B is 3"):
        built(tmp_path, RUNS.replace("{runs: [one, two]}", sources.replace("card.yaml", "3")))


def test_runs_without_any_result_are_no_data(tmp_path: Path) -> None:
    for name in ("one", "two"):
        write_run(tmp_path / name, [run_event(), *chain("clean", [])])
    with pytest.raises(TrainingError, match="no data: the sources have no evolved group; left out: the search found"):
        built(tmp_path, RUNS)


# --- bootstrap -------------------------------------------------------------------------------------


def test_the_small_bootstrap_corpus_needs_no_data_and_is_marked_synthetic(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MASA_DATA", raising=False)
    config, places = load_config("plan-bootstrap-small")
    config = replace(
        config, context_length=20_000, bootstrap={**config.bootstrap, "train": 4, "validation": 2, "test": 2}
    )
    dataset = build_dataset(config, places, ByteBase())
    assert dataset.info.synthetic and all(s.synthetic for s in dataset.train)
    assert {s.origin for s in dataset.train} == {"{examples}/banks/household.json"}
    assert "synthetic" in data_card(dataset).split("\n")[0] and "synthetic" in dataset.info.summary
    texts = [{s.principle for sample in dataset.split(split) for s in sample.request.group.skills} for split in SPLITS]
    assert not texts[0] & texts[1] and not texts[0] & texts[2] and not texts[1] & texts[2]


def test_bootstrap_settings_are_strict() -> None:
    config, places = load_config("plan-bootstrap-small")
    for settings_, said in (({"trian": 1}, "did you mean 'train'"), ({"seed": 1}, "set `seed` instead")):
        with pytest.raises(MasaError, match=said):
            build_dataset(replace(config, bootstrap=settings_), places, ByteBase())


# --- the data card ---------------------------------------------------------------------------------


def test_the_data_card_tells_counts_lengths_hold_outs_origins_and_omissions(toy: Dataset) -> None:
    card = data_card(toy)
    assert card.startswith("# Data set toy\n")
    for said in (
        "| other backbone | 30 | 3 | 3 |",
        "| home | 42 | 9 | 9 |",
        "| Toy-1B | 35 | 3 | 3 |",
        "- test: task types heat",
        "| toy banks for home | CC0-1.0 |",
        "- the evolved bank lacks the group: 6 (home/Toy-1B/extra",
        f"| train | total | {toy.info.tokens['train']['total']['p50']:,} |",
    ):
        assert said in card


def test_text_published_gives_224_training_pairs_of_32_cells(shared_data: Path) -> None:
    config, places = load_config("text-published", data_dir=str(shared_data))
    dataset = build_dataset(replace(config, context_length=50_000), places, ByteBase())
    assert Counter(s.source for s in dataset.train) == {
        "intermediate": 32,
        "other backbone": 64,
        "adapter": 64,
        "augmented": 64,
    }
    assert Counter(s.environment for s in dataset.train) == {"alfworld": 84, "search": 140}
    assert (len(dataset.validation), len(dataset.test)) == (12, 36)
    assert {s.cell.group for s in dataset.test} == {"clean", "heat", "cool"}
