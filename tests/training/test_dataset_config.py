"""Configurations: typed, strict, with a sentence for every mistake."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from masa_training.dataset.config import SHIPPED, DatasetConfig, Places, load_config
from masa_training.errors import TrainingError
from masa_training.settings import config_names, make
from tests.training.dataset_banks import CONFIG, dataset_config


def test_defaults_are_the_papers() -> None:
    config = dataset_config(CONFIG)
    assert (config.augmentation.noise, config.augmentation.keep, config.augmentation.verbose) == (0.3, 0.6, True)
    assert dataset_config(CONFIG.replace("context_length: 20000\n", "")).context_length == 4096


def test_every_shipped_configuration_is_valid_and_carries_its_file_name() -> None:
    names = {"text-published", "text-published-heldout-environment", "text-published-heldout-backbone"}
    assert set(config_names(SHIPPED)) >= names | {"plan-bootstrap", "plan-bootstrap-small"}
    for name in config_names(SHIPPED):
        config, _ = load_config(name)
        assert config.name == name


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("language: text", "languag: text", "unknown setting 'languag'; did you mean 'language'?"),
        ("holdouts:", "zzz: 1\nholdouts:", "unknown setting 'zzz'; known are name, language"),
        (
            "task_types: [heat]",
            "task_type: [heat]",
            "holdouts.test.task_type'; did you mean 'task_types'",
        ),
        ("name: toy\n", "", "name is missing"),
        ("name: toy", "name: a/b", "without slashes"),
        ("language: text", "language: prose", "language is \"prose\"; it must be one of 'text', 'plan'"),
        ("language: text", "language: plan", "published banks record no edits"),
        ("task_types: [heat]", "task_types: heat", 'task_types is "heat"; a list'),
        ("context_length: 20000", "context_length: lots", 'context_length is "lots"; a whole number'),
        ("context_length: 20000", "context_length: true", "context_length is true; a whole number"),
        ("context_length: 20000", "context_length: 0", "context_length is 0; it must be at least 1"),
        ("context_length: 20000", "augmentation: {noise: 2}", "augmentation.noise is 2; it must be at most 1"),
        ("context_length: 20000", "augmentation: {keep: 0}", "augmentation.keep is 0; it must be above 0"),
        ("context_length: 20000", "samples: {adapter: -1}", "samples.adapter is -1; it must be at least 0"),
        ("context_length: 20000", "card_variants: [tiny]", "card_variants[0] is \"tiny\"; it must be one of 'full'"),
        ("context_length: 20000", "seed: 1.5", "seed is 1.5; a whole number"),
        ("kind: published", "kind: runs", "no data: kind runs needs sources.runs"),
        (
            'evolved: "banks/home/{backbone}_evolved.json"',
            "evolved: banks/one.json",
            "the same file for every backbone",
        ),
    ],
)
def test_a_mistake_is_one_sentence(old: str, new: str, said: str) -> None:
    assert old in CONFIG
    with pytest.raises(TrainingError) as error:
        dataset_config(CONFIG.replace(old, new, 1), "toy.yaml")
    assert said in str(error.value) and str(error.value).startswith("toy.yaml")
    assert "\n" not in str(error.value)


def test_text_that_is_not_yaml_or_no_mapping_is_refused(tmp_path: Path) -> None:
    for text in ("a: [", "- 1", "", "\tx"):
        (tmp_path / "toy.yaml").write_text(text)
        with pytest.raises(TrainingError, match=r"toy\.yaml"):
            load_config(str(tmp_path / "toy.yaml"))


def test_bootstrap_is_for_plans() -> None:
    with pytest.raises(TrainingError, match="set language: plan"):
        dataset_config("name: a\nlanguage: text\nkind: bootstrap\nsources: {train_skills: [x]}")


BOOTSTRAP = "name: a\nlanguage: plan\nkind: bootstrap\nsources: {train_skills: [x]}\n"
RUNS = "name: a\nlanguage: plan\nkind: runs\nsources: {runs: [x]}\n"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            f"{BOOTSTRAP}holdouts: {{test: {{task_types: [nosuch]}}}}",
            "toy.yaml: holdouts.test.task_types does nothing with kind: bootstrap, which holds out skills "
            "(sources.test_skills); leave it out",
        ),
        (f"{BOOTSTRAP}card_variants: [full, short]", "card_variants does nothing with kind: bootstrap; leave it out"),
        (f"{BOOTSTRAP}samples: {{intermediate: 3}}", "samples.intermediate does nothing with kind: bootstrap"),
        (f"{BOOTSTRAP}held_out_samples: {{augmented: 1}}", "held_out_samples.augmented does nothing with kind: boot"),
        (BOOTSTRAP.replace("{train", "{runs: [y], train"), "sources.runs does nothing with kind: bootstrap"),
        (f"{RUNS}samples: {{adapter: 4}}", "samples.adapter does nothing with language: plan"),
        (f"{RUNS}augmentation: {{noise: 0.5}}", "augmentation.noise does nothing with language: plan"),
        (f"{RUNS}bootstrap: {{train: 5}}", "bootstrap does nothing with kind: runs"),
        (RUNS.replace("{runs", "{test_skills: [y], runs"), "sources.test_skills does nothing with kind: runs"),
    ],
)
def test_a_setting_that_does_nothing_is_refused(text: str, said: str) -> None:
    with pytest.raises(TrainingError) as error:
        dataset_config(text, "toy.yaml")
    assert said in str(error.value) and "\n" not in str(error.value)


def test_what_is_left_out_of_a_kind_that_has_none_of_it_may_be_said() -> None:
    none = "samples: {intermediate: 3, other_backbone: 0, adapter: 0, augmented: 0}"
    mixed = RUNS.replace("runs\n", "mixed\n").replace("{runs", "{train_skills: [y], validation_share: 0.2, runs")
    assert dataset_config(f"{RUNS}{none}\nheld_out_samples: {{intermediate: 9}}").samples.intermediate == 3
    assert dataset_config(f"{mixed}{none}\nholdouts: {{test: {{task_types: [heat]}}}}\nbootstrap: {{train: 5}}")


@pytest.mark.parametrize("pattern", ["training/masa_training/configs/**/*.yaml", "studies/**/*.yaml"])
def test_every_data_set_of_this_repository_says_only_what_it_uses(repository: Path, pattern: str) -> None:
    found = 0
    for path in sorted(repository.glob(pattern)):
        values = yaml.safe_load(path.read_text("utf-8"))
        inner = [values, values.get("dataset")] if isinstance(values, dict) else []
        for dataset in inner:
            if isinstance(dataset, dict) and {"language", "kind"} <= set(dataset):
                found += bool(make(DatasetConfig, {"name": "a", **dataset}, str(path)))
    assert found


def test_an_unknown_name_suggests_a_shipped_one_and_a_missing_file_lists_them() -> None:
    with pytest.raises(TrainingError, match="did you mean 'text-published'"):
        load_config("text-publishd")
    with pytest.raises(TrainingError, match="no such data set"):
        load_config("missing.yaml")


def test_paths_lead_to_the_data_folder_the_examples_or_beside_the_configuration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, repository: Path
) -> None:
    monkeypatch.delenv("MASA_DATA", raising=False)
    _, places = load_config("text-published")
    with pytest.raises(TrainingError, match=r"--data-dir or MASA_DATA"):
        places.resolve("{data}/x.json")
    monkeypatch.setenv("MASA_DATA", str(tmp_path))
    _, places = load_config("text-published")
    assert places.resolve("{data}/x.json") == tmp_path / "x.json"
    assert places.resolve("{examples}/banks/household.json") == repository / "examples/banks/household.json"
    assert Places(tmp_path, None).resolve("a/b.json") == tmp_path / "a/b.json"
    assert Places(tmp_path, None).resolve("/a/b.json") == Path("/a/b.json")
    with pytest.raises(TrainingError, match="no such folder"):
        load_config("text-published", data_dir=str(tmp_path / "missing"))


def test_settings_of_the_command_line_win() -> None:
    large, _ = load_config("plan-bootstrap", overrides=["bootstrap.train=400", 'base="x: y.gguf"'])
    usual, _ = load_config("plan-bootstrap")
    assert (large.base, large.bootstrap) == ("x: y.gguf", {**usual.bootstrap, "train": 400})
    with pytest.raises(TrainingError, match="contextlength"):
        load_config("plan-bootstrap", overrides=["contextlength=1"])
