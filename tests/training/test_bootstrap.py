"""The bootstrap corpus on skills of our own: every plan is usable, cards decide, the splits share nothing."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import pytest

from masa.cards import FIELDS, ModelCard, shipped_cards
from masa.edits import WARN_KINDS, apply_plan
from masa.group_rewrite import prepare
from masa.guard import check
from masa.languages import MAX_WARNINGS, parse_plan, render_plan
from masa.prompt import INSTRUCTIONS
from masa.skills import Group, Skill
from masa_training.bootstrap import (
    Corpus,
    CorpusConfig,
    SkillGroup,
    build,
    check_disjoint,
    edit_counts,
    plan_for,
    skill_groups,
    traits_of,
)
from masa_training.bootstrap.cards import FAMILIES
from masa_training.bootstrap.rules import TRANSFORMING
from masa_training.errors import TrainingError
from masa_training.samples import Sample, dumps_sample, loads_sample

CONFIG = CorpusConfig(seed=3, train=24, validation=4, test=14, cards_per_group=8)

_TRAIN = {
    "general": (
        (
            "Look first",
            "Read the whole room description, because it often names what you need. Then choose.",
            "At the start of an episode.",
        ),
        (
            "One at a time",
            "Carry one object, put it down at its place, and only then take the next one.",
            "When two objects are needed.",
        ),
        (
            "Doors",
            "Open the cabinet before you judge it empty. A closed one tells nothing. "
            "Look into it and read the list. Move on when it is not there. Come back only for a reason.",
            "",
        ),
        (
            "Walk less",
            "Search the nearest containers first (drawers, shelves), so that no step is wasted.",
            "When several places are possible.",
        ),
    ),
    "cool": (
        (
            "Fridge",
            "Take the object to the fridge, open it, cool the object, and carry it to its destination.",
            "When something cold is asked for.",
        ),
        (
            "Check",
            "Make sure that the object is really cold before you leave the fridge; a warm one does not count.",
            "After cooling.",
        ),
        ("Hands", "Keep the object in your hand.", "While you walk to the receptacle."),
    ),
    "lamp": (
        (
            "Find light",
            "Go to the desk lamp and switch it on. Hold the object close to it. Then examine it.",
            "If the task names a lamp.",
        ),
        (
            "Order",
            "First take the object; then look for the lamp, which is usually on a desk.",
            "If the task names a lamp.",
        ),
    ),
}
_VALIDATION = {
    "heat": (
        (
            "Warm it",
            "Put the bread into the microwave and heat it, then carry it to the table.",
            "When it must be hot.",
        ),
        ("Plate", "Fetch a plate as well. It is needed to serve the bread. Wash it if it is dirty.", "After heating."),
    )
}
_TEST = {
    "socks": (
        (
            "Name the product",
            "Type the material and the colour into the search box, because titles list both. Read the prices.",
            "When the wish names a material.",
        ),
        (
            "Pick options",
            "Select the size, select the colour, and buy the item only after both are set.",
            "On a product page.",
        ),
        (
            "Price",
            "Compare the price with the limit. Go back if it is higher. Look at the next product. Stay calm.",
            "",
        ),
    ),
    "general": (("Finish", "Buy something before the turns run out.", "At the end of shopping."),),
}


def _groups(skills: dict[str, tuple[tuple[str, str, str], ...]], kind: str, name: str) -> list[SkillGroup]:
    return [
        SkillGroup(
            name,
            kind,
            Group(
                None if key == "general" else key,
                tuple(Skill(f"{key}_{n}", title, text, when) for n, (title, text, when) in enumerate(entries, 1)),
            ),
        )
        for key, entries in skills.items()
    ]


GROUPS = {
    "train": _groups(_TRAIN, "household", "train.json"),
    "validation": _groups(_VALIDATION, "household", "validation.json"),
    "test": _groups(_TEST, "shopping", "test.json"),
}


@pytest.fixture(scope="module")
def corpus() -> Corpus:
    return build(CONFIG, GROUPS)


def _all(corpus: Corpus) -> list[Sample]:
    return [sample for samples in corpus.values() for sample in samples]


def test_every_plan_parses_with_the_edits_that_the_runtime_admits_and_passes_the_guard(corpus: Corpus) -> None:
    for sample in _all(corpus):
        request = sample.request
        allowed = prepare(request, frozenset(), "plan").allowed
        plan = parse_plan(sample.target, allowed)
        assert render_plan(plan) == sample.target
        made = apply_plan(request.group, plan, request.facts)
        told = {"facts": request.facts, "prompt_text": INSTRUCTIONS["plan"], "plan": made}
        assert check(request.group, made.group, **told) == ()  # type: ignore[arg-type]


def test_a_line_changes_its_skill_unless_it_says_keep(corpus: Corpus) -> None:
    for sample in _all(corpus):
        plan = parse_plan(sample.target, prepare(sample.request, frozenset(), "plan").allowed)
        output = apply_plan(sample.request.group, plan, sample.request.facts).group
        for line, before, after in zip(plan.lines, sample.request.group.skills, output.skills, strict=False):
            assert (before == after) == (line.edits[0].name == "keep"), sample.target


def test_samples_are_synthetic_valid_and_read_back_equal(corpus: Corpus) -> None:
    samples = _all(corpus)
    assert len(samples) == 8 * (24 + 4 + 14)
    assert len({sample.id for sample in samples}) == len(samples)
    for sample in samples:
        assert sample.synthetic and sample.source == "bootstrap" and sample.environment == ""
        assert loads_sample(dumps_sample(sample)) == sample
        assert list(sample.request.card) == [name for name in FIELDS if name in sample.request.card]
        ModelCard(**sample.request.card)  # type: ignore[arg-type]


def test_the_card_decides_the_plan(corpus: Corpus) -> None:
    trees = defaultdict(list)
    for sample in _all(corpus):
        trees[sample.tags["tree"]].append(sample)
    assert all(len({s.request.group for s in tree}) == 1 for tree in trees.values())
    different = [a.target != b.target for tree in trees.values() for a, b in combinations(tree, 2)]
    assert sum(different) / len(different) >= 0.6


def test_no_edit_dominates_and_every_edit_of_the_rules_occurs(corpus: Corpus) -> None:
    samples = corpus["train"]
    lines = sum(len(sample.request.group) for sample in samples)
    counts = edit_counts(samples)
    transforming = {"keep", "shorten", "condition-action", "steps", "syntax", "example", "emphasise", "limit"}
    assert transforming == {name for name in counts if not name.startswith("+")}
    assert max(counts[name] for name in transforming) / lines < 0.6
    assert {f"+ warn {kind}" for kind in WARN_KINDS} <= set(counts)
    untouched = [all(line.endswith(" keep") for line in sample.target.split("\n")) for sample in samples]
    assert 0.10 <= sum(untouched) / len(untouched) <= 0.35


def test_many_cards_say_nothing_about_weaknesses(corpus: Corpus) -> None:
    silent = sum("weaknesses" not in sample.request.card for sample in corpus["train"])
    assert 0.15 <= silent / len(corpus["train"]) <= 0.6


def test_the_corpus_follows_from_its_seed(corpus: Corpus) -> None:
    small = replace(CONFIG, train=2, validation=1, test=1)
    again = build(small, GROUPS)
    assert again["train"] == corpus["train"][:16]  # more trees do not change those that were there
    assert build(replace(small, seed=4), GROUPS)["train"] != again["train"]


def test_more_strengths_that_take_a_need_back_change_the_training_cards_alone(corpus: Corpus) -> None:
    more = build(replace(CONFIG, taken_back=0.9), GROUPS)
    assert more["validation"] == corpus["validation"] and more["test"] == corpus["test"]

    def taken_back(samples: list[Sample]) -> float:
        """Share of the tiny profiled readers that do not need both, brevity and order."""
        tiny = [s for s in samples if s.tags["size"] == "tiny" and s.tags["kind"] == "profiled"]
        return sum(not {"brevity", "order"} <= set(s.tags["needs"].split(",")) for s in tiny) / len(tiny)

    assert taken_back(corpus["train"]) < 0.25 < 0.4 < taken_back(more["train"])


def test_readers_with_strengths_against_their_size_are_in_training_alone(corpus: Corpus) -> None:
    more = build(replace(CONFIG, contradicted=1.0), GROUPS)
    assert more["validation"] == corpus["validation"] and more["test"] == corpus["test"]
    profiled = [set(s.tags["needs"].split(",")) for s in more["train"] if s.tags["kind"] == "profiled"]
    sizes = Counter(s.tags["size"] for s in more["train"] if s.tags["kind"] == "profiled")
    assert set(sizes) <= {"tiny", "small", "unknown"} and sizes["tiny"] > 2 * sizes["small"] > 0
    tiny = [
        set(s.tags["needs"].split(","))
        for s in more["train"]
        if s.tags["kind"] == "profiled" and s.tags["size"] == "tiny"
    ]
    # Neither size nor one strength decides alone: each of the four cases is a good part of the tiny readers.
    for brevity, order in ((True, False), (False, True), (False, False)):
        case = [needs for needs in tiny if ("brevity" in needs, "order" in needs) == (brevity, order)]
        assert len(case) > 0.15 * len(tiny)
    assert any("order" in needs and "brevity" not in needs for needs in profiled)


def test_with_the_profile_first_plans_follow_from_weaknesses_before_size(corpus: Corpus) -> None:
    def beyond(samples: list[Sample]) -> list[bool]:
        """By tiny reader whose weaknesses ask for an edit: whether it needs more than they say."""
        said = [({name.split("/")[0] for name in s.tags["said"].split(",") if name}, s) for s in samples]
        tiny = [(needs, s) for needs, s in said if s.tags["size"] == "tiny" and needs & set(TRANSFORMING)]
        return [needs != set(s.tags["needs"].split(",")) for needs, s in tiny]

    profiles = build(replace(CONFIG, profile_first=True), GROUPS)
    for split, samples in profiles.items():
        assert beyond(samples) and not any(beyond(samples)) and any(beyond(corpus[split]))


def test_test_samples_say_whether_their_behaviours_are_known(corpus: Corpus) -> None:
    tags = [sample.tags["behaviours"] for sample in corpus["test"]]
    assert {"seen", "unseen", "none"} == set(tags)
    assert "unseen" not in {sample.tags["behaviours"] for sample in (*corpus["train"], *corpus["validation"])}
    assert {sample.tags["skills"] for sample in corpus["test"]} == {"unseen"}


def test_invented_families_are_no_shipped_ones() -> None:
    real = {str(card.family).lower() for card in shipped_cards().values()}
    invented = [name.lower() for names in FAMILIES.values() for name in names]
    assert len(set(invented)) == len(invented)
    assert not any(name.startswith(other) for name in invented for other in real)


def _planted(corpus: Corpus, change: dict[str, object], *, tags: dict[str, str] | None = None) -> Corpus:
    victim = corpus["train"][0]
    request = replace(victim.request, **change)  # type: ignore[arg-type]
    planted = replace(victim, request=request, tags={**victim.tags, **(tags or {})})
    return {**corpus, "train": [planted, *corpus["train"][1:]]}


def test_a_clean_corpus_is_let_through(corpus: Corpus) -> None:
    check_disjoint(corpus)


def test_a_planted_skill_is_caught(corpus: Corpus) -> None:
    skill = corpus["test"][0].request.group.skills[0]
    disguised = replace(skill, skill_id="other", principle=skill.principle.upper().replace(",", " ;"))
    with pytest.raises(TrainingError, match=r"skill .* is in train .* and in test"):
        check_disjoint(_planted(corpus, {"group": Group(None, (disguised,))}))


@pytest.mark.parametrize(
    "text",
    ["Long-winded.", "maths, bypasses necessary intermediate stages", "hit its limit; asked how many, it says which"],
)
def test_a_planted_wording_is_caught(corpus: Corpus, text: str) -> None:
    card = {**corpus["train"][0].request.card, "weaknesses": text}
    with pytest.raises(TrainingError, match=r"wording .* of the test split is in train"):
        check_disjoint(_planted(corpus, {"card": card}))


def test_a_planted_wording_with_numbers_is_caught(corpus: Corpus) -> None:
    card = {**corpus["test"][0].request.card, "weaknesses": "compliance with given rules was only 31 %"}
    sample = replace(corpus["test"][0], request=replace(corpus["test"][0].request, card=card))
    with pytest.raises(TrainingError, match="of the train split is in test"):
        check_disjoint({**corpus, "test": [sample]})


def test_a_planted_behaviour_is_caught(corpus: Corpus) -> None:
    with pytest.raises(TrainingError, match="loop/degenerate"):
        check_disjoint(_planted(corpus, {}, tags={"said": "loop/degenerate"}))
    sample = replace(corpus["test"][0], tags={"said": "loop/cycles", "behaviours": "unseen"})
    leaking = _planted(corpus, {}, tags={"said": "loop/cycles"})
    with pytest.raises(TrainingError, match="tagged as unseen and is in train"):
        check_disjoint({**leaking, "test": [sample]})


def test_a_planted_family_is_caught(corpus: Corpus) -> None:
    card = {**corpus["train"][0].request.card, "family": corpus["test"][0].request.card["family"]}
    with pytest.raises(TrainingError, match=r"family .* is in train .* and in test"):
        check_disjoint(_planted(corpus, {"card": card}))


def test_groups_that_share_a_skill_are_refused_before_anything_is_generated() -> None:
    with pytest.raises(TrainingError, match=r"'Look first'"):
        build(CONFIG, {**GROUPS, "test": GROUPS["train"]})


def test_a_split_without_groups_is_one_sentence() -> None:
    with pytest.raises(TrainingError, match="no skill groups for the test split"):
        build(CONFIG, {**GROUPS, "test": []})
    assert build(CorpusConfig(train=1, validation=0, test=0), GROUPS)["test"] == []


@pytest.mark.parametrize(
    "change", [{"train": -1}, {"cards_per_group": 0}, {"facts_share": 1.5}, {"taken_back": 1.5}, {"contradicted": -1}]
)
def test_a_setting_out_of_range_is_refused(change: dict[str, float]) -> None:
    with pytest.raises(TrainingError, match="it must be"):
        CorpusConfig(**change)  # type: ignore[arg-type]


def test_groups_of_bank_files_know_their_kind(tmp_path: Path, repository: Path) -> None:
    found = skill_groups([repository / "examples" / "banks" / "household.json"])
    assert {entry.environment for entry in found} == {"household"}
    assert [entry.group.key for entry in found][:2] == ["general_skills", "fetch"]
    bank = {
        "general_skills": [
            {
                "skill_id": "g1",
                "title": "Query",
                "principle": "Search for the answer to the question.",
                "when_to_apply": "",
            }
        ],
        "task_specific_skills": {"empty": []},
        "common_mistakes": [],
    }
    path = tmp_path / "bank.json"
    path.write_text(json.dumps(bank), encoding="utf-8")
    assert [(entry.environment, entry.group.key) for entry in skill_groups([path])] == [("search", "general_skills")]


def test_rule_plans_for_the_shipped_cards_pass_the_guard_on_the_published_banks(shared_data: Path) -> None:
    cards = [card.fields() for card in shipped_cards().values()]
    groups = varied = 0
    for entry in skill_groups(sorted((shared_data / "skillrl").glob("*.json"))):
        plans = {}
        for card in cards:
            plan = plan_for(traits_of(card), entry.group)
            plans[render_plan(plan)] = plan
        groups += 1
        varied += len(plans) >= 2  # terse groups admit little of what a card without weaknesses asks for
        for plan in plans.values():
            assert len(plan.warnings) <= MAX_WARNINGS
            made = apply_plan(entry.group, plan)
            assert check(entry.group, made.group, prompt_text=INSTRUCTIONS["plan"], plan=made) == ()
    assert varied > groups / 2
