"""`masa pipeline`: six stages in one folder, killed and gone on with anywhere, and nothing done twice."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
import yaml
from click.testing import CliRunner, Result

import masa_training.distill.run as distilling
import masa_training.evolution.run as searching
import masa_training.evolution.views.report as drawing
from masa.artifact import load_artifact
from masa.cards import load_card
from masa.cli.application import Root
from masa_training import bases
from masa_training.append_only import writing
from masa_training.checkpoint import BaseNote, Checkpoint, DatasetNote, write_checkpoint
from masa_training.commands import pipeline as command_module
from masa_training.dataset.folder import Dataset, load_dataset
from masa_training.distill import schedule as planning
from masa_training.distill.config import DistillConfig
from masa_training.distill.run_folder import Source, claim
from masa_training.errors import TrainingError
from masa_training.models import ModelError, Reply, Request
from masa_training.pipeline import load_pipeline, pipeline_names, process, stages
from masa_training.pipeline.config import Costs, playing, total, training
from masa_training.pipeline.forecast import forecast
from masa_training.pipeline.process import TerminatedError, run_masa
from masa_training.pipeline.run import EVENTS, Outcome, Record, StageError, difference, run_pipeline
from masa_training.pipeline.stages import STAGES, Work
from tests.training.dataset_banks import ByteBase
from tests.training.test_evolution import OPTIONS, Reader, events

HOUSEHOLD = Path(stages.__file__).resolve().parent.parent / "configs/banks/household/moderate.json"
CARD = "family: Reader\nvariant: 1B\nnum_layers: 3\n"
FAKE = (sys.executable, str(Path(__file__).with_name("fake_masa.py")))


class TinyBase(ByteBase):
    """As what `open_base` gives."""

    kind, path, sha256 = "gguf", Path("tiny.gguf"), "0" * 64


class Killed(BaseException):
    """As if the process were gone: nothing may catch it."""


class Quick(Reader):
    """A reader that works the solutions out once."""

    known: ClassVar[dict[str, list[str]]] = {}

    def __init__(self) -> None:
        if not Quick.known:
            super().__init__()
            Quick.known.update(self._solutions)
        self._solutions, self.replies = Quick.known, 0


class Mortal(Quick):
    """A reader whose process is killed at one of its replies."""

    def __init__(self, dies_at: int) -> None:
        super().__init__()
        self.dies_at = dies_at

    def _one(self, request: Request) -> Reply:
        if self.replies >= self.dies_at:
            raise Killed
        return super()._one(request)


def settings(folder: Path, **changes: Any) -> dict[str, Any]:
    card = folder / "reader.yaml"
    card.write_text(CARD)
    values: dict[str, Any] = {
        "name": "tiny",
        "profile": {"tasks": 8},
        "evolve": {
            "environment": "lookup",
            "options": OPTIONS,
            "backbone": {"name": "Reader-1B", "spec": f"replay:{card}", "card": str(card)},
            "bank": "lookup/moderate",
            "agent": {"choose": True},
            "rounds": 2,
            "iterations": 1,
            "task_types": ["comparison"],
            "watched": 4,
            "accept": {"pairs": 20},
            "test_tasks": 8,
        },
        "dataset": {
            "language": "plan",
            "kind": "mixed",
            "sources": {"runs": ["{run}"], "train_skills": [str(HOUSEHOLD)], "origin": "ours", "licence": "CC0-1.0"},
            "bootstrap": {"train": 2, "validation": 1, "test": 1, "cards_per_group": 2},
        },
        "distill": {"base": "tiny", "method": "lora", "rank": 2, "epochs": 1, "context_length": 50_000},
        "verify": {"limit": 2},
        "costs": {
            "episode_seconds": 36,
            "dollars_per_hour": 2.0,
            "sample_tokens": 100,
            "tokens_per_second": 10,
            "export_minutes": 1,
            "verify_minutes": 1,
        },
    }
    return _deep(values, changes)


def _deep(under: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(under)
    for key, value in over.items():
        merged[key] = _deep(merged[key], value) if isinstance(value, dict) and key in merged else value
    return merged


def config(folder: Path, **changes: Any) -> Path:
    path = folder / "p.yaml"
    path.write_text(yaml.safe_dump(settings(folder, **changes)))
    return path


def fake_distill(
    config: DistillConfig, dataset: Dataset, folder: Path, *, resume: bool, report: Any, stop: Callable[[], bool]
) -> Checkpoint:
    """As `masa distill`, but it learns nothing."""
    info = dataset.info
    claim(folder, config, Source(info.name, info.sha256, info.language, info.summary, True, info.licence), resume)
    if stop():
        raise distilling.StoppedError(folder, 1)
    place = folder / "checkpoint"
    place.mkdir()
    (place / "adapter_model.safetensors").write_bytes(b"weights")
    record = Checkpoint(
        path=place,
        kind="lora",
        base=BaseNote("base", config.base, config.base, "gguf", "0" * 64),
        language="plan",
        prompt_version=1,
        template=ByteBase().template,
        context_length=100,
        dataset=DatasetNote(info.name, info.sha256, info.summary, synthetic=info.synthetic, licence="none"),
        training=config.to_dict(),
        metrics={"steps": 1},
    )
    write_checkpoint(record)
    return record


@pytest.fixture(autouse=True)
def _without_models(monkeypatch: pytest.MonkeyPatch) -> None:
    without_models(monkeypatch)
    # What is drawn and resampled at the end of a search is half the time of these tests.
    monkeypatch.setattr(drawing, "write_report", lambda folder: folder)
    monkeypatch.setattr(searching, "final_test", lambda config, arena, *banks: {"differences": []})


def without_models(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (bases, planning):
        monkeypatch.setattr(module, "open_base", lambda spec, template=None: TinyBase(spec=spec))
    monkeypatch.setattr(distilling, "distill", fake_distill)
    monkeypatch.setattr(process, "MASA", FAKE)


def work(path: Path, folder: Path, *overrides: str, **more: Any) -> Work:
    return Work(load_pipeline(str(path), overrides), folder, **{"model": Quick(), **more})


def asked(folder: Path) -> list[str]:
    """The sub-commands of masa export that were run."""
    log = folder / "distill" / "asked.jsonl"
    return [json.loads(line)[1] for line in log.read_text().splitlines()] if log.exists() else []


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Outcome, Path, Path]:
    folder = tmp_path_factory.mktemp("whole")
    path = config(folder)
    with pytest.MonkeyPatch.context() as patch:
        without_models(patch)
        return run_pipeline(work(path, folder / "run")), path, folder / "run"


@pytest.fixture
def copy(whole: tuple[Outcome, Path, Path], tmp_path: Path) -> tuple[Path, Path]:
    """The configuration and a copy of the finished folder."""
    shutil.copytree(whole[2], tmp_path / "run")
    return whole[1], tmp_path / "run"


# --- configuration -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", pipeline_names())
def test_every_shipped_pipeline_loads(name: str) -> None:
    loaded = load_pipeline(name)
    assert loaded.name == name and loaded.costs.hardware and loaded.costs.source
    assert loaded.profiling().backbone == loaded.evolve.backbone.spec


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"evolv": {}}, "unknown setting 'evolv'; did you mean 'evolve'"),
        ({"evolve": {"round": 1}}, "p.yaml: unknown setting 'evolve.round'; did you mean 'rounds'"),
        ({"dataset": {"kind": "published"}}, "published banks record no edits"),
        ({"distill": {"ranc": 1}}, "unknown setting 'ranc'"),
        ({"distill": {"method": "full"}}, "only a LoRA is exported as an adapter; set export.kind: gguf"),
        ({"verify": {"limits": 1}}, "unknown setting 'verify.limits'; did you mean 'limit'"),
        ({"export": {"kind": "onnx"}}, "export.kind is .*'adapter', 'gguf'"),
        ({"profile": 3}, "profile is 3; settings"),
        ({"name": "a/b"}, "name is"),
        ({"costs": {"episode_tokens": [1]}}, "costs.episode_tokens"),
        ({"evolve": {"config": "lookup-smollm"}}, "did you mean 'lookup-smollm2'"),
        ({"costs": {"episode_seconds": -1}}, "episode_seconds is -1.*at least 0"),
        ({"export": {"type": "q4"}}, "export.type is .*'f32', 'f16', 'q8_0'"),
        ({"verify": {"limit": 0}}, "verify.limit is 0; it must be at least 1"),
        ({"verify": {"seed": -1}}, "seed is -1; it must be at least 0"),
        ({"verify": {"thresholds": {"kl": "high"}}}, "thresholds.kl is .*; a number"),
        ({"verify": {"thresholds": {"kl": False}}}, "thresholds.kl is false; a number"),
        ({"distill": {"schedule": "cosin"}}, "p.yaml: distill: schedule is"),
        ({"distill": {"seed": -4}}, "seed is -4"),
        ({"distill": {"report_to": ["nosuch"]}}, "report_to is 'nosuch'"),
        ({"dataset": {"sources": {"runs": ["runs/other"]}}}, 'leaves out what is evolved here; name "{run}"'),
        ({"dataset": {"kind": "runs"}}, "sources.train_skills does nothing with kind: runs"),
        ({"dataset": {"context_length": 60_000}}, "60000, but distill.context_length is 50000"),
    ],
)
def test_wrong_settings_are_refused_with_their_place(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(TrainingError, match=message):
        load_pipeline(str(config(tmp_path, **changes)))


def test_without_a_corpus_something_has_to_be_held_out(tmp_path: Path) -> None:
    path = config(tmp_path)
    values = yaml.safe_load(path.read_text())
    values["dataset"] = {"language": "plan", "kind": "runs", "sources": {"runs": ["{run}"]}}
    path.write_text(yaml.safe_dump(values))
    with pytest.raises(TrainingError, match="test holds nothing out"):
        load_pipeline(str(path))
    assert load_pipeline(str(path), ["dataset.holdouts.test.task_types=[comparison]"]).dataset.kind == "runs"


def test_a_section_changes_the_shipped_configuration_it_names(tmp_path: Path) -> None:
    path = tmp_path / "p.yaml"
    values = settings(tmp_path)
    values["evolve"] = {"config": "lookup-smollm2", "accept": {"pairs": 7}}
    path.write_text(yaml.safe_dump(values))
    loaded = load_pipeline(str(path), ["evolve.rounds=1", "distill.rank=3"])
    assert (loaded.evolve.accept.pairs, loaded.evolve.accept.first, loaded.evolve.rounds) == (7, 5, 1)
    assert loaded.evolve.backbone.spec == "transformers:smollm2-135m" and loaded.distill.rank == 3


def test_the_data_set_is_measured_with_the_base_that_learns_from_it(tmp_path: Path) -> None:
    loaded = load_pipeline(str(config(tmp_path)))
    assert (loaded.dataset.base, loaded.dataset.context_length) == ("tiny", 50_000)
    assert load_pipeline(str(tmp_path / "p.yaml"), ["dataset.base=other"]).dataset.base == "other"


def test_an_override_that_is_no_yaml_is_refused_in_one_sentence() -> None:
    with pytest.raises(TrainingError, match=r"--set name=\[: \["):
        load_pipeline("smallest", ["name=["])


class FolderBase(TinyBase):
    kind, path = "hf", Path("folder")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("dataset.sources.train_skills=[gone.json]", "dataset.sources.train_skills: .*gone.json: not there"),
        ("dataset.sources.train_skills=['{data}/gone.json']", "{data} is not set"),
        ("distill.base=gone", "distill.base: gone: no such base"),
        ("distill.reference=gone", "distill.reference: gone: no such base"),
        ("distill.start=gone", "distill.start: gone: no such folder"),
        ("distill.context_length=200000", "distill.context_length: 200000 is more than the 100000 tokens"),
        ("export.base=gone.gguf", "export.base: gone.gguf: no such file"),
        ("distill.base=folder", "distill: .*nothing proves that its tokenizer equals llama.cpp's; set `reference`"),
        ("distill.start=.", "distill: .*so it is no checkpoint"),
        ("export={kind: gguf, quantization: Q9_Z}", "export.quantization: Q9_Z: .*known: F32"),
        ("export={kind: gguf, quantization: Q4_K}", "export.quantization: Q4_K: is not one type.*write Q4_K_M"),
        ("verify.thresholds={foo: 1}", "verify.thresholds: foo=1.*no figure is called 'foo'; known: load, tokens"),
    ],
)
def test_what_a_later_stage_will_miss_is_told_before_anything_is_played(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: str, message: str
) -> None:
    def opened(spec: str, template: str | None = None) -> ByteBase:
        if spec == "gone":
            raise TrainingError("gone: no such base")
        return FolderBase(spec=spec) if spec == "folder" else TinyBase(spec=spec)

    monkeypatch.delenv("MASA_DATA", raising=False)
    for module in (bases, planning):
        monkeypatch.setattr(module, "open_base", opened)
    doing = work(config(tmp_path), tmp_path / "run", change)
    with pytest.raises(TrainingError, match=message):
        run_pipeline(doing)
    assert isinstance(doing.model, Reader) and doing.model.replies == 0
    planned = forecast(work(tmp_path / "p.yaml", tmp_path / "run", change))
    assert len(planned.missing) == 1 and re.search(message, planned.missing[0])
    assert run_pipeline(work(tmp_path / "p.yaml", tmp_path / "other", change), until="profile").stages


def test_a_backbone_that_is_not_there_is_told_in_the_plan(tmp_path: Path) -> None:
    planned = forecast(work(config(tmp_path), tmp_path / "run", "evolve.backbone.spec=nomodel"))
    assert len(planned.missing) == 1 and planned.missing[0].startswith("nomodel: no such model")


@pytest.mark.parametrize(
    ("export", "message"),
    [
        ("{kind: adapter}", "export.base: an artifact needs .* as GGUF; name that file"),
        ("{kind: gguf}", "export.converter: a Hugging Face base needs llama.cpp's converter"),
    ],
)
def test_a_hugging_face_base_that_cannot_be_exported_is_told_before_anything_is_played(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, export: str, message: str
) -> None:
    monkeypatch.delenv("MASA_CONVERTER", raising=False)
    changes = (f"distill.base={tmp_path}", "distill.reference=tiny", f"export={export}")
    planned = forecast(work(config(tmp_path), tmp_path / "run", *changes))
    assert len(planned.missing) == 1 and re.search(message, planned.missing[0])
    named = (*changes, f"export.base={tmp_path / 'p.yaml'}")
    assert forecast(work(tmp_path / "p.yaml", tmp_path / "run", *named)).missing == ()


# --- the whole way -------------------------------------------------------------------------------------------


def test_from_a_backbone_to_a_verified_artifact(whole: tuple[Outcome, Path, Path]) -> None:
    outcome, _, folder = whole
    assert tuple(outcome.stages) == STAGES and outcome.verified and not outcome.stopped
    assert outcome.artifact == folder / "artifact" / "tiny"
    assert load_artifact(outcome.artifact).adapter == "adapter.gguf"
    card = load_card(folder / "profile" / "card.yaml").fields()
    assert card["weaknesses"] and events(folder / "evolve")[0]["card"] == card, "the search is told what was profiled"
    data = load_dataset(folder / "dataset")
    sources = {(sample.source, sample.synthetic) for sample in data.train}
    assert sources == {("intermediate", False), ("bootstrap", True)}
    assert asked(folder) == ["adapter", "verify"]
    assert (folder / "evolve" / "report.html").exists()


def test_the_data_card_says_what_came_from_where(whole: tuple[Outcome, Path, Path]) -> None:
    text = (whole[2] / "dataset" / "README.md").read_text()
    data = load_dataset(whole[2] / "dataset")
    made = sum(sample.synthetic for sample in data.train)
    assert text.startswith(f"# Data set tiny (synthetic in part: the targets of {made} of {len(data.train)} training")
    assert f"{len(data.train) - made} from recorded searches (environments lookup; backbones Reader-1B)" in text
    assert "| the run of masa evolve in tiny | Apache-2.0 |" in text and "| ours | CC0-1.0 |" in text


def test_a_search_that_found_nothing_still_gives_a_data_set(tmp_path: Path) -> None:
    path = config(tmp_path, evolve={"rounds": 1, "iterations": 0, "accept": {"alpha": 1e-9}})
    outcome = run_pipeline(work(path, tmp_path / "run"), until="dataset")
    assert list(outcome.stages) == ["profile", "evolve", "dataset"] and outcome.artifact is None
    data = load_dataset(tmp_path / "run" / "dataset")
    assert data.train and all(sample.synthetic for sample in data.train)
    assert "the search found nothing better than what it began with" in data.info.left_out


# --- going on ------------------------------------------------------------------------------------------------


def test_a_finished_pipeline_does_nothing_again(whole: tuple[Outcome, Path, Path], copy: tuple[Path, Path]) -> None:
    path, folder = copy
    before = {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    again = work(path, folder)
    with pytest.raises(TrainingError, match="holds a pipeline already"):
        run_pipeline(again)
    outcome = run_pipeline(again, resume=True)
    assert outcome.verified and (outcome.stages, outcome.seconds) == (whole[0].stages, whole[0].seconds)
    assert isinstance(again.model, Reader) and again.model.replies == 0
    assert {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()} == before


@pytest.mark.parametrize("name", STAGES)
def test_killed_before_a_stage_was_recorded_it_is_recognised_by_what_it_left(
    copy: tuple[Path, Path], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kill comes after the stage's last byte and before the record says so."""
    path, folder = copy
    kept = []
    for line in (folder / EVENTS).read_text().splitlines():
        kept.append(line)
        told = json.loads(line)
        if told == {**told, "event": "begun", "stage": name}:
            break
    (folder / EVENTS).write_text("\n".join(kept) + "\n")
    for later in STAGES[STAGES.index(name) + 1 :]:
        place = stages.stage_of(later).place(work(path, folder))
        shutil.rmtree(place) if place.is_dir() else place.unlink(missing_ok=True)
    again = work(path, folder)
    performed: list[str] = []
    for stage in STAGES:
        real = stages.stage_of(stage)

        def perform(work: Work, real: stages.Stage = real) -> dict[str, Any]:
            performed.append(real.name)
            return real.perform(work)

        monkeypatch.setitem(stages._STAGES, stage, replace(real, perform=perform))
    assert run_pipeline(again, resume=True).verified
    assert performed == list(STAGES[STAGES.index(name) + 1 :])


@pytest.mark.parametrize("dies_at", [3, 40])
def test_killed_inside_a_stage_it_goes_on_and_plays_nothing_twice(
    whole: tuple[Outcome, Path, Path], tmp_path: Path, dies_at: int
) -> None:
    folder = tmp_path / "run"
    with pytest.raises(Killed):
        run_pipeline(work(whole[1], folder, model=Mortal(dies_at)))
    assert run_pipeline(work(whole[1], folder), resume=True).verified

    def played(run: Path) -> list[Any]:
        of = [tuple(event["of"]) for event in events(run / "evolve") if event["event"] == "episode"]
        return sorted(one for one in of if one[1] != "test")

    assert played(folder) == played(whole[2]) and len(set(played(folder))) == len(played(folder))
    data = [load_dataset(run / "dataset").info.sha256 for run in (folder, whole[2])]
    assert data[0] == data[1]


def test_cancelled_it_says_where_and_goes_on(whole: tuple[Outcome, Path, Path], tmp_path: Path) -> None:
    played: list[int] = []

    class Counting(Quick):
        def reply(self, requests: Any) -> list[Reply | ModelError]:
            played.append(1)
            return super().reply(requests)

    stopped = run_pipeline(
        work(whole[1], tmp_path / "run", model=Counting(), cancel=lambda: len(played) > 12), until="dataset"
    )
    assert stopped.stopped == "evolve" and list(stopped.stages) == ["profile"]
    assert run_pipeline(work(whole[1], tmp_path / "run"), resume=True).verified


def test_what_was_deleted_is_made_again_and_what_follows_from_it_stays(copy: tuple[Path, Path]) -> None:
    path, folder = copy
    shutil.rmtree(folder / "dataset")
    assert run_pipeline(work(path, folder), resume=True).verified
    assert asked(folder) == ["adapter", "verify"], "the same data, so nothing after it is done again"
    (folder / "artifact" / "tiny" / "adapter.gguf").write_bytes(b"damaged")
    assert run_pipeline(work(path, folder), resume=True).verified
    assert asked(folder)[2] == "adapter" and load_artifact(folder / "artifact" / "tiny").adapter


def test_what_the_base_does_not_have_is_told_before_anything_is_played(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def check(base: ByteBase, config: DistillConfig) -> None:
        raise TrainingError(f"targets is {config.targets!r}")

    monkeypatch.setattr("masa_training.distill.model.check_targets", check)
    planned = forecast(work(config(tmp_path), tmp_path / "run", "distill.targets=nosuch"))
    assert planned.missing == ("distill: targets is 'nosuch'",)


def test_what_a_deleted_stage_will_miss_is_told_as_if_it_had_never_been(copy: tuple[Path, Path]) -> None:
    path, folder = copy
    wrong = "verify.thresholds={foo: 1}"
    for gone in ("distill", "artifact"):
        shutil.rmtree(folder / gone)
    with pytest.raises(TrainingError, match="is called 'foo'"):
        run_pipeline(work(path, folder, wrong), resume=True)
    assert not (folder / "distill").exists(), "nothing is trained before that"


def test_what_a_finished_stage_would_miss_does_not_matter(
    copy: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone(spec: str, template: str | None = None) -> ByteBase:
        raise TrainingError("gone: no such base")

    path, folder = copy
    shutil.rmtree(folder / "dataset")
    monkeypatch.setattr(planning, "open_base", gone)
    assert forecast(work(path, folder)).missing == ()
    assert run_pipeline(work(path, folder), resume=True).verified


def test_a_stage_made_from_something_else_is_named(copy: tuple[Path, Path]) -> None:
    path, folder = copy
    shutil.rmtree(folder / "dataset")
    with pytest.raises(StageError, match="stage distill: was made from another dataset than there is now"):
        run_pipeline(work(path, folder, "dataset.seed=5"), resume=True)
    shutil.rmtree(folder / "distill")
    shutil.rmtree(folder / "artifact")
    assert run_pipeline(work(path, folder, "dataset.seed=5"), resume=True).verified


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("profile.tasks=4", "stage profile: tasks is 4, but .* was begun with 8; go on with that"),
        ("evolve.rounds=1", "stage evolve: rounds is 1, but .* was begun with 2; go on with that"),
        ("evolve.accept.pairs=30", "stage evolve: accept.pairs is 30"),
        ("dataset.bootstrap.train=3", "stage dataset: bootstrap.train is 3"),
        ("distill.rank=4", "stage distill: rank is 4"),
        ("export.type=q8_0", "stage export: type is 'q8_0'"),
        ("verify.limit=9", "stage verify: limit is 9"),
    ],
)
def test_other_settings_are_refused_in_one_sentence(copy: tuple[Path, Path], change: str, message: str) -> None:
    path, folder = copy
    before = (folder / EVENTS).read_bytes()
    with pytest.raises(StageError, match=message) as refused:
        run_pipeline(work(path, folder, change), resume=True)
    assert "\n" not in str(refused.value) and (folder / EVENTS).read_bytes() == before


def test_what_changes_no_result_may_differ(copy: tuple[Path, Path]) -> None:
    path, folder = copy
    changes = ("evolve.budget.minutes=9", "distill.threads=2", "costs.sample_tokens=1")
    assert run_pipeline(work(path, folder, *changes), resume=True).verified


def test_a_spent_budget_names_what_to_raise_and_a_larger_one_goes_on(tmp_path: Path) -> None:
    path = config(tmp_path)
    with pytest.raises(StageError, match=r"stage evolve: the budget of 30 episodes is spent.*raise evolve.budget"):
        run_pipeline(work(path, tmp_path / "run", "evolve.budget.episodes=30"))
    assert run_pipeline(work(path, tmp_path / "run"), resume=True, until="evolve").stages["evolve"]


@pytest.mark.parametrize("part", [".", "profile", "evolve"])
def test_a_folder_that_another_process_works_in_is_refused(
    whole: tuple[Outcome, Path, Path], tmp_path: Path, part: str
) -> None:
    folder = tmp_path / "run"
    begun = part != "."
    if begun:
        folder.mkdir()
        (folder / EVENTS).touch()
    message = rf"another masa works in it \(process {os.getpid()}\)"
    with writing(folder / part), pytest.raises(TrainingError, match=message):
        run_pipeline(work(whole[1], folder), resume=begun)
    assert run_pipeline(work(whole[1], folder), resume=begun, until="profile").stages


def test_looking_at_a_folder_changes_nothing_in_it(copy: tuple[Path, Path]) -> None:
    """Another process may be in the middle of each of these lines."""
    path, folder = copy
    shutil.rmtree(folder / "dataset")
    for name in (EVENTS, "profile/events.jsonl", "evolve/events.jsonl"):
        with (folder / name).open("ab") as stream:
            stream.write(b'{"event": "spen')
    before = {p: (p.stat().st_ino, p.read_bytes()) for p in folder.rglob("*") if p.is_file()}
    assert forecast(work(path, folder)).measured
    assert {p: (p.stat().st_ino, p.read_bytes()) for p in folder.rglob("*") if p.is_file()} == before


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "mine.txt").write_text("mine")
    with pytest.raises(TrainingError, match="is not empty and holds no pipeline"):
        run_pipeline(work(config(tmp_path), tmp_path / "run"))


# --- the command ---------------------------------------------------------------------------------------------


def cli(monkeypatch: pytest.MonkeyPatch, *arguments: str | Path) -> Result:
    root = Root(name="masa")
    monkeypatch.setattr(root, "get_command", lambda ctx, name: command_module.command)
    return CliRunner().invoke(root, ["pipeline", *map(str, arguments)])


def test_a_failed_verification_fails_and_keeps_the_artifact_unverified(
    copy: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    path, folder = copy
    (folder / "artifact" / "tiny" / "verify.json").unlink()
    (folder / "distill" / "checkpoint" / "refuse-verify").touch()
    done = cli(monkeypatch, path, "-o", folder, "--resume")
    assert done.exit_code == 1 and "Traceback" not in done.stderr
    said = done.stderr.splitlines()[-1]
    assert "stage verify: " in said and "is not what was trained: kl is 0.5" in said
    assert "the artifact is kept, but it is not verified" in said
    assert f"go on with: masa pipeline {path} -o {folder} --resume" in said
    assert load_artifact(folder / "artifact" / "tiny").adapter
    assert run_pipeline(work(path, folder), resume=True, until="export").verified is False
    (folder / "distill" / "checkpoint" / "refuse-verify").unlink()
    told = cli(monkeypatch, path, "-o", folder, "--resume", "--set", "verify.limit=5", "--json")
    assert told.exit_code == 0 and json.loads(told.stdout)["verified"] is True, "other settings than those that failed"
    assert told.stderr == ""


def test_the_command_that_goes_on_plays_where_the_first_one_did(
    copy: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    path, folder = copy
    shutil.rmtree(folder / "artifact")
    (folder / "distill" / "checkpoint" / "refuse-export").touch()
    said = f"go on with: masa pipeline {path} -o {folder} --resume"
    given = ("--executor", "ray", "--workers", "2", "--address", "ray://head:1", "--trees", "3")
    done = cli(monkeypatch, path, "-o", folder, "--resume", *given)
    assert done.stderr.endswith(f"{said} {' '.join(given)}\n")
    assert cli(monkeypatch, path, "-o", folder, "--resume").stderr.endswith(f"{said}\n"), "and no defaults"


def test_a_failed_export_is_said_in_its_own_words(copy: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    path, folder = copy
    shutil.rmtree(folder / "artifact")
    (folder / "distill" / "checkpoint" / "refuse-export").touch()
    done = cli(monkeypatch, path, "-o", folder, "--resume")
    assert done.exit_code == 1 and "stage export: the adapter cannot be written; go on with: masa" in done.stderr
    assert "[5/6] export: goes on" in done.stderr and "Working …" in done.stderr
    assert not (folder / "artifact" / "tiny").exists()


def test_a_dry_run_shows_every_stage_and_writes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = config(tmp_path)
    done = cli(monkeypatch, path, "-o", tmp_path / "run", "--dry-run", "--json")
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    assert [its["stage"] for its in told["stages"]] == list(STAGES) and not (tmp_path / "run").exists()
    by = {its["stage"]: its for its in told["stages"]}
    assert by["profile"]["episodes"] == 8 and by["profile"]["hours"] == pytest.approx(0.08)
    assert by["evolve"]["episodes"] == (20 + 2 * 24) + (20 + 24) + 3 * 8
    assert by["evolve"]["dollars"] == pytest.approx(2 * by["evolve"]["hours"])
    assert by["distill"]["tokens"] == (2 + 4) * 100 and by["dataset"]["training_samples"] == {"runs": 2, "bootstrap": 4}
    shown = cli(monkeypatch, path, "-o", tmp_path / "run", "--dry-run")
    assert "at most 136 episodes, 24 of them the test; 2 groups" in shown.stdout


def test_a_dry_run_of_a_folder_counts_what_is_left_with_what_was_measured(
    copy: tuple[Path, Path],
) -> None:
    path, folder = copy
    for gone in ("evolve", "dataset", "distill", "artifact"):
        shutil.rmtree(folder / gone)
    plan = forecast(work(path, folder))
    assert [step.state for step in plan.steps] == ["finished", *["begun"] * 5]
    assert plan.costs.episode_tokens[1] >= 2 and plan.measured == ("episode_tokens",)
    hours = [step.estimate.hours or 0 for step in plan.steps]
    assert plan.left.hours == pytest.approx(sum(hours[1:])) and hours[0] > 0, "what is finished is not to do"


# --- parts ---------------------------------------------------------------------------------------------------


def test_a_cancelled_process_is_stopped(tmp_path: Path) -> None:
    code = "import time; time.sleep(60)"
    began = time.monotonic()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(process, "MASA", (sys.executable, "-c", code))
        with pytest.raises(TerminatedError):
            run_masa(["export"], say=lambda text: None, cancel=lambda: True)
    assert time.monotonic() - began < 30


def test_where_the_pipeline_is_killed_the_command_it_runs_ends_as_well(tmp_path: Path) -> None:
    """Else it would work on in the folder that somebody goes on with."""
    started = tmp_path / "started"
    command = f"import pathlib, os, time; pathlib.Path({str(started)!r}).write_text(str(os.getpid())); time.sleep(120)"
    (tmp_path / "slow").mkdir()
    (tmp_path / "slow" / "masa").mkdir()
    (tmp_path / "slow" / "masa" / "__init__.py").touch()
    (tmp_path / "slow" / "masa" / "cli.py").write_text(f"def main(): exec({command!r})")
    parent = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import os; from masa_training.pipeline import process\n"
            f"os.environ['PYTHONPATH'] = {str(tmp_path / 'slow')!r}\n"
            "process.run_masa(['export'], say=print)",
        ]
    )
    child = int(_soon(lambda: started.exists() and started.read_text()))
    parent.send_signal(signal.SIGKILL)
    parent.wait()

    def gone() -> bool:
        try:
            os.kill(child, 0)
        except ProcessLookupError:
            return True
        state = Path(f"/proc/{child}/stat")
        return state.exists() and state.read_text().rpartition(")")[2].split()[0] == "Z"

    assert _soon(gone)


def _soon(what: Callable[[], Any]) -> Any:
    until = time.monotonic() + 60
    while time.monotonic() < until:
        if found := what():
            return found
        time.sleep(0.05)
    raise AssertionError("it did not happen within a minute")


def test_a_damaged_line_of_the_record_is_named_and_a_torn_one_passed_over(tmp_path: Path) -> None:
    (tmp_path / EVENTS).write_text('{"event": "begun", "stage": "profile", "settings": {}, "inputs": {}}\n{"ev')
    assert set(Record(tmp_path).begun) == {"profile"}
    (tmp_path / EVENTS).write_text("[]\n")
    with pytest.raises(TrainingError, match="line 1 is damaged"):
        Record(tmp_path)


def test_a_difference_is_named_by_its_place() -> None:
    assert difference({"a": {"b": 1}, "c": 2}, {"a": {"b": 1}, "c": 2, "new": 3}) is None
    assert difference({"a": {"b": 1}}, {"a": {"b": 2}}) == ("a.b", 1, 2)
    assert difference({"a": {}}, {"a": {"b": 2}}) == ("a.b", None, 2)


def test_unknown_costs_stay_unknown() -> None:
    assert playing(Costs(), 10, 0, ()).hours is None
    told = {"teacher_tokens": (1000, 100), "episode_tokens": (10, 1)}
    unasked = Costs(episode_seconds=3600, dollars_per_hour=2, **told)
    assert playing(unasked, 2, 3, (1.0, 10.0)).hours is None
    priced = replace(unasked, teacher_seconds=1e-9)
    found = playing(priced, 2, 3, (1.0, 10.0))
    assert (found.hours, found.teacher_tokens, found.backbone_tokens) == (pytest.approx(2), (3000, 300), (20, 2))
    assert found.dollars == pytest.approx(4 + 0.006)
    assert training(Costs(dollars_per_hour=1), 100).dollars is None
    assert total([found, found]).hours == pytest.approx(4)
    assert total([found, training(Costs(), 1)]).hours is None, "what is unknown is not counted as nothing"
    unpriced = playing(priced, 2, 3, ())
    assert unpriced.dollars is None and unpriced.teacher_tokens == (3000, 300)
    assert playing(Costs(teacher_seconds=1800, episode_seconds=1800), 1, 2, (0.0, 0.0)).hours == 1.5
