"""`masa distill dataset`: what it prints, writes and returns."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from masa.cli.application import Root
from masa_training import bases
from masa_training.commands import dataset as command_module
from masa_training.dataset import load_dataset
from tests.training.dataset_banks import CONFIG, ByteBase, write_config

Cli = Callable[..., Result]


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch) -> Cli:
    monkeypatch.delenv("MASA_DATA", raising=False)
    monkeypatch.setattr(bases, "open_base", lambda spec, template=None: ByteBase(spec=spec))

    root = Root(name="masa")
    monkeypatch.setattr(root, "get_command", lambda ctx, name: command_module.command)

    def run(*arguments: str | Path) -> Result:
        return CliRunner().invoke(root, ["distill", "dataset", *map(str, arguments)])

    return run


def test_it_writes_a_data_set_and_reports_it(cli: Cli, tmp_path: Path) -> None:
    result = cli(write_config(tmp_path), "-o", tmp_path / "out")
    assert result.exit_code == 0, result.output
    dataset = load_dataset(tmp_path / "out")
    assert (len(dataset.train), len(dataset.validation), len(dataset.test)) == (105, 9, 9)
    assert "train           105     15" in result.stdout
    assert "Left out: the evolved bank lacks the group (6 times)" in result.stdout
    assert "Counting tokens" in result.stderr and "Counting" not in result.stdout
    assert (tmp_path / "out/README.md").read_text().startswith("# Data set toy\n")


def test_a_dry_run_writes_nothing_and_tells_the_same_counts(cli: Cli, tmp_path: Path) -> None:
    config = write_config(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    dry = cli(config, "-o", tmp_path / "out", "--dry-run", "--json")
    assert dry.exit_code == 0 and sorted(tmp_path.rglob("*")) == before
    real = cli(config, "-o", tmp_path / "out", "--json")
    told, done = json.loads(dry.stdout), json.loads(real.stdout)
    assert told.pop("output") is None and done.pop("output") == str(tmp_path / "out")
    assert told == done and told["samples"] == {"train": 105, "validation": 9, "test": 9}
    assert load_dataset(tmp_path / "out").info.sha256 == done["sha256"]
    assert dry.stderr == real.stderr == ""


def test_seed_and_base_win_over_the_configuration(cli: Cli, tmp_path: Path) -> None:
    config = write_config(tmp_path)
    values = [json.loads(cli(config, "--dry-run", "--json", "--seed", seed).stdout) for seed in ("0", "1", "0")]
    assert values[0] == values[2] != values[1]
    assert json.loads(cli(config, "--dry-run", "--json", "--base", "my.gguf").stdout)["tokens"]["spec"] == "my.gguf"


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("language: text", "langauge: text", "unknown setting 'langauge'; did you mean 'language'?"),
        ("[heat]", "[haet]", "no cell has 'haet'; did you mean 'heat'?"),
        ("context_length: 20000", "context_length: 50", "samples do not fit"),
        ("base: banks/home/base.json", 'base: "{data}/base.json"', "give the folder with --data-dir or MASA_DATA"),
    ],
)
def test_a_mistake_is_one_sentence_exit_code_1_and_no_folder(
    cli: Cli, tmp_path: Path, old: str, new: str, said: str
) -> None:
    result = cli(write_config(tmp_path, CONFIG.replace(old, new, 1)), "-o", tmp_path / "out", "-q")
    assert result.exit_code == 1 and said in result.stderr and result.stdout == ""
    assert len(result.stderr.strip().splitlines()) == 1 and "Traceback" not in result.stderr
    assert not (tmp_path / "out").exists()


def test_an_existing_folder_is_refused_before_any_work(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = write_config(tmp_path)
    assert cli(config, "-o", tmp_path / "out", "-q").exit_code == 0
    with monkeypatch.context() as patch:
        patch.setattr(bases, "open_base", lambda *args: pytest.fail("worked before it looked"))
        result = cli(config, "-o", tmp_path / "out")
    assert result.exit_code == 1 and "exists already" in result.stderr
    assert cli(config, "-o", tmp_path / "out", "-q", "--force", "--seed", "3").exit_code == 0
    assert load_dataset(tmp_path / "out").info.seed == 3


def test_wrong_usage_is_exit_code_2(cli: Cli, tmp_path: Path) -> None:
    result = cli(write_config(tmp_path))
    assert result.exit_code == 2 and "Give -o FOLDER, or --dry-run" in result.stderr


def test_help_has_examples_and_names_every_shipped_configuration(cli: Cli) -> None:
    from masa_training.dataset.config import SHIPPED
    from masa_training.settings import config_names

    help_text = " ".join(cli("--help").stdout.replace("-\n", "-").split())
    assert "Examples:" in help_text
    for name in config_names(SHIPPED):
        assert name in help_text


@pytest.mark.model
def test_the_small_bootstrap_corpus_is_built_with_the_real_tokenizer(
    smollm2: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MASA_DATA", raising=False)
    result = CliRunner().invoke(command_module.command, ["plan-bootstrap-small", "-o", str(tmp_path / "out"), "--json"])
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)
    assert told["synthetic"] and told["tokens"]["train"]["total"]["max"] <= 2048
    assert told["tokens"]["base"] == smollm2.stem
    assert (tmp_path / "out/README.md").read_text().split("\n")[0].count("synthetic") == 1
    assert load_dataset(tmp_path / "out").info.sha256 == told["sha256"]
