"""`masa distill` from end to end on a tiny base: learning, resuming after kill -9, repeatability, clear refusals."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Literal

import pytest

from masa.prompt import Request
from masa.skills import Group, Skill
from masa_training.dataset.folder import Dataset, DatasetInfo, load_dataset, write_dataset
from masa_training.distill.config import PRESETS, DistillConfig, load_config
from masa_training.distill.events import EventLog, read_events
from masa_training.distill.run import StoppedError, distill
from masa_training.distill.run_folder import last_checkpoint
from masa_training.distill.schedule import plan
from masa_training.errors import TrainingError
from masa_training.samples import Sample
from masa_training.settings import config_names, make
from tests.tiny_gguf import write_tiny_gguf

# --- configuration: needs no model ------------------------------------------------------------------


@pytest.mark.parametrize("name", config_names(PRESETS))
def test_every_shipped_configuration_loads(name: str) -> None:
    assert load_config(name).batch_size >= 1


def test_the_defaults_are_the_papers() -> None:
    config = load_config("qwen3-4b")
    assert (config.method, config.precision, config.learning_rate) == ("full", "bf16", 1e-5)
    assert (config.schedule, config.warmup, config.batch_size, config.epochs) == ("cosine", 0.1, 4, 5)
    assert config.context_length == 4096


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"learning_rat": 1e-3}, "unknown setting 'learning_rat'; did you mean 'learning_rate'"),
        ({"rank": "big"}, 'rank is "big"; a whole number'),
        ({"rank": True}, "rank is true; a whole number"),
        ({"batch_size": 0}, "batch_size is 0; it must be at least 1"),
        ({"method": "qlora"}, "method is \"qlora\"; it must be one of 'full', 'lora'"),
        ({"constrained": 1.5}, "constrained is 1.5; it must be at most 1"),
        ({"learning_rate": 3.0}, "learning_rate is 3.0; it must be below 1"),
    ],
)
def test_a_wrong_setting_is_refused_in_words(values: dict[str, object], message: str) -> None:
    with pytest.raises(TrainingError, match=message):
        make(DistillConfig, values, "x.yaml")


def test_settings_can_be_overridden_by_name(tmp_path: Path) -> None:
    assert load_config("qwen3-4b", ["learning_rate=2e-5", "epochs=1"]).learning_rate == 2e-5
    with pytest.raises(TrainingError, match="--set epochs: write"):
        load_config("qwen3-4b", ["epochs"])
    with pytest.raises(TrainingError, match="did you mean 'qwen3-4b'"):
        load_config("qwen3-4")


def test_events_survive_a_torn_line(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    EventLog(path).write("started", steps=3)
    with path.open("a") as file:
        file.write('{"event": "trai')
    EventLog(path).write("resumed", steps=3)
    assert [event["event"] for event in read_events(path)] == ["started", "resumed"]


def test_only_complete_checkpoints_are_gone_on_from(tmp_path: Path) -> None:
    for number, state in ((2, '{"global_step": 2}'), (4, '{"global_st'), (6, None)):
        folder = tmp_path / f"checkpoint-{number}"
        folder.mkdir()
        if state is not None:
            (folder / "trainer_state.json").write_text(state)
    assert last_checkpoint(tmp_path) == tmp_path / "checkpoint-2"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-2"], "what a kill left is removed"
    assert last_checkpoint(tmp_path / "none") is None


# --- training: a tiny base with a real vocabulary ---------------------------------------------------


@pytest.fixture(scope="module")
def tiny(smollm2: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_gguf(smollm2, tmp_path_factory.mktemp("base") / "tiny.gguf")


def samples(split: str, count: int) -> tuple[Sample, ...]:
    """Plans that follow from the card: a reader that repeats itself is warned."""
    found = []
    for number in range(count):
        group = Group(None, (Skill("a", f"Look {number // 2}", f"Look at place {number // 2} of the {split} house."),))
        repeats = number % 2 == 0
        card = {"family": "Tiny", "weaknesses": "repeats itself" if repeats else "none"}
        target = "1 keep\n+ warn loop" if repeats else "1 keep"
        found.append(Sample(f"{split}-{number}", Request(group, card), "plan", target, f"Tiny-{number % 2}"))
    return tuple(found)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    folder = tmp_path_factory.mktemp("data") / "set"
    info = DatasetInfo(
        name="tiny",
        language="plan",
        prompt_version=1,
        seed=0,
        synthetic=True,
        context_length=1024,
        summary="A few plans of ours.",
        licence="Apache-2.0",
    )
    write_dataset(folder, Dataset(info, samples("train", 12), samples("validation", 4), samples("test", 4)), "# card\n")
    return load_dataset(folder)


@pytest.fixture
def settings(tiny: Path) -> DistillConfig:
    return DistillConfig(
        base=str(tiny),
        method="lora",
        rank=4,
        precision="fp32",
        learning_rate=0.02,
        batch_size=4,
        epochs=3,
        context_length=1024,
        evaluations=1,
        patience=0,
        threads=1,
        report_to=[],
    )


def losses(folder: Path) -> list[float]:
    return [event["loss"] for event in read_events(folder / "events.jsonl") if event["event"] == "trained"]


def weights(folder: Path) -> bytes:
    return (folder / "checkpoint" / "adapter_model.safetensors").read_bytes()


@pytest.mark.model
def test_training_lowers_the_held_out_loss_and_leaves_a_checkpoint(
    settings: DistillConfig, data: Dataset, tmp_path: Path
) -> None:
    heard: list[str] = []
    checkpoint = distill(settings, data, tmp_path / "run", report=lambda event, values: heard.append(event))
    assert checkpoint.metrics["validation_nll"] < checkpoint.metrics["validation_nll_before"] - 1
    assert checkpoint.language == "plan" and checkpoint.dataset.synthetic is True
    assert checkpoint.dataset.sha256 == data.info.sha256
    assert heard[0] == "started" and heard[-1] == "finished" and "saved" in heard
    assert sorted(path.name for path in checkpoint.path.iterdir()) == [
        "adapter_config.json",
        "adapter_model.safetensors",
        "masa.json",
    ], "no pickle in what is handed on"
    with pytest.raises(TrainingError, match="holds a run already"):
        distill(settings, data, tmp_path / "run")
    with pytest.raises(TrainingError, match="its run is finished"):
        distill(settings, data, tmp_path / "run", resume=True)


@pytest.mark.model
def test_the_same_seed_gives_the_same_adapter_and_another_seed_another(
    settings: DistillConfig, data: Dataset, tmp_path: Path
) -> None:
    short = replace(settings, epochs=1)
    distill(short, data, tmp_path / "a")
    distill(short, data, tmp_path / "b")
    distill(replace(short, seed=1), data, tmp_path / "c")
    assert weights(tmp_path / "a") == weights(tmp_path / "b") != weights(tmp_path / "c")


@pytest.mark.model
def test_a_run_can_begin_with_the_adapter_of_an_earlier_one(
    settings: DistillConfig, data: Dataset, tmp_path: Path
) -> None:
    first = distill(settings, data, tmp_path / "first")
    second = distill(replace(settings, start=str(first.path)), data, tmp_path / "second")
    assert second.metrics["validation_nll_before"] == pytest.approx(first.metrics["validation_nll"], abs=1e-5)
    for change, message in (({"rank": 2}, "its rank is 4, not 2"), ({"method": "full"}, "only a LoRA can go on")):
        with pytest.raises(TrainingError, match=message):
            distill(replace(settings, start=str(first.path), **change), data, tmp_path / message[:3])  # type: ignore[arg-type]
    with pytest.raises(TrainingError, match="nowhere"):
        distill(replace(settings, start=str(tmp_path / "nowhere")), data, tmp_path / "third")


KILLED = """
import sys
from pathlib import Path
from masa_training.dataset.folder import load_dataset
from masa_training.distill.config import DistillConfig
from masa_training.settings import make
from masa_training.distill.run import distill
import json
distill(make(DistillConfig, json.loads(sys.argv[1]), "test"), load_dataset(sys.argv[2]), Path(sys.argv[3]))
"""


@pytest.mark.model
def test_a_run_killed_with_signal_9_goes_on_to_the_same_adapter(
    settings: DistillConfig, data: Dataset, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    slow = replace(settings, epochs=4)
    whole = tmp_path / "whole"
    distill(slow, data, whole)
    folder = tmp_path / "killed"
    source = tmp_path / "data"
    write_dataset(source, data, "# card\n")
    words = [sys.executable, "-c", KILLED, json.dumps(slow.to_dict()), str(source), str(folder)]
    process = subprocess.Popen(words, stderr=subprocess.PIPE, env={**os.environ, "OMP_WAIT_POLICY": "passive"})
    deadline = time.monotonic() + 300
    while not list(folder.glob("checkpoints/*/trainer_state.json")):
        assert process.poll() is None, process.stderr.read().decode()  # type: ignore[union-attr]
        assert time.monotonic() < deadline, "no checkpoint was written"
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (folder / "checkpoint").exists(), "it was killed before its end"
    with pytest.raises(TrainingError, match=r"0\.02, not 0\.5"):
        distill(replace(slow, learning_rate=0.5), data, folder, resume=True)
    distill(slow, data, folder, resume=True)
    events = [event["event"] for event in read_events(folder / "events.jsonl")]
    assert "resumed" in events and events[-1] == "finished"
    assert losses(folder)[-1] == pytest.approx(losses(whole)[-1], abs=1e-4)
    assert weights(folder) == weights(whole)


@pytest.mark.model
def test_a_run_that_is_stopped_keeps_a_checkpoint_and_goes_on_with_other_row_sizes(
    settings: DistillConfig, data: Dataset, tmp_path: Path
) -> None:
    steps = 0

    def stop() -> bool:
        nonlocal steps
        steps += 1
        return steps >= 4

    with pytest.raises(StoppedError, match=r"stopped after step 4"):
        distill(settings, data, tmp_path / "run", stop=stop)
    assert last_checkpoint(tmp_path / "run" / "checkpoints") == tmp_path / "run" / "checkpoints" / "checkpoint-4"
    done = distill(replace(settings, row_tokens=600), data, tmp_path / "run", resume=True)
    assert done.metrics["steps"] == 9


@pytest.mark.model
def test_what_cannot_be_trained_on_is_refused_before_anything_is_written(
    settings: DistillConfig, data: Dataset, tmp_path: Path
) -> None:
    with pytest.raises(TrainingError, match=r"sample train-\d+ has \d+ tokens, the context is 64"):
        plan(replace(settings, context_length=64), data)
    with pytest.raises(TrainingError, match=r"context_length is 9000"):
        plan(replace(settings, context_length=9000), data)
    with pytest.raises(TrainingError, match="it has no training samples"):
        plan(settings, replace(data, train=()))
    with pytest.raises(TrainingError, match="prompt version 7"):
        plan(settings, replace(data, info=replace(data.info, prompt_version=7)))
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "file").touch()
    with pytest.raises(TrainingError, match="is not empty and holds no run"):
        distill(settings, data, tmp_path / "other")


@pytest.mark.model
def test_memory_running_out_names_two_settings_and_loses_nothing(
    settings: DistillConfig, data: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    from masa_training.distill.trainer import StepTrainer

    train = StepTrainer.training_step

    def fails(self: StepTrainer, *arguments: object, **words: object) -> object:
        if self.state.global_step == 4:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return train(self, *arguments, **words)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(StepTrainer, "training_step", fails)
        with pytest.raises(TrainingError, match=r"row_tokens \(now 8192\)"):
            distill(settings, data, tmp_path / "run")
    assert distill(settings, data, tmp_path / "run", resume=True).metrics["steps"] == 9


@pytest.mark.model
@pytest.mark.parametrize(
    "error",
    [OSError(errno.ENOSPC, "No space left on device"), RuntimeError("PytorchStreamWriter failed writing file data/0")],
)
def test_a_full_disk_is_told_in_words_and_loses_no_earlier_checkpoint(
    error: Exception, settings: DistillConfig, data: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from masa_training.distill.trainer import StepTrainer

    save = StepTrainer._save_checkpoint

    def full(self: StepTrainer, *arguments: object, **words: object) -> None:
        if self.state.global_step > 3:
            folder = Path(self.args.output_dir) / f"checkpoint-{self.state.global_step}"
            folder.mkdir()
            (folder / "adapter_model.safetensors").write_bytes(b"half")
            raise error
        save(self, *arguments, **words)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(StepTrainer, "_save_checkpoint", full)
        with pytest.raises(TrainingError, match="at step 6"):
            distill(settings, data, tmp_path / "run")
    assert distill(settings, data, tmp_path / "run", resume=True).metrics["steps"] == 9
    resumed = [e for e in read_events(tmp_path / "run" / "events.jsonl") if e["event"] == "resumed"]
    assert resumed[0]["checkpoint"] == "checkpoint-3"


@pytest.mark.model
def test_the_command_trains_and_says_what_is_next(
    tiny: Path, data: Dataset, tmp_path: Path, settings: DistillConfig
) -> None:
    import yaml

    config = tmp_path / "tiny.yaml"
    config.write_text(yaml.safe_dump({**settings.to_dict(), "epochs": 1}))
    source = tmp_path / "data"
    write_dataset(source, data, "# card\n")
    output = tmp_path / "run"
    words = [sys.executable, "-m", "masa.cli", "distill", str(config), "--dataset", str(source), "-o", str(output)]
    environment = {**os.environ, "OMP_WAIT_POLICY": "passive"}
    dry = subprocess.run([*words, "--dry-run", "--json"], capture_output=True, text=True, env=environment, check=True)
    assert json.loads(dry.stdout)["samples"] == 12 and not output.exists()
    done = subprocess.run([*words, "--json"], capture_output=True, text=True, env=environment, check=True)
    assert json.loads(done.stdout)["steps"] == 3
    again = subprocess.run(words, capture_output=True, text=True, env=environment, check=False)
    assert again.returncode == 1 and "Traceback" not in again.stderr
    assert "holds a run already; go on with it (--resume)" in again.stderr


@pytest.mark.parametrize(
    ("asked", "native", "gpu", "bf16"),
    [
        ("bf16", True, False, True),
        ("bf16", False, False, False),
        ("bf16", False, True, True),
        ("fp32", True, True, False),
    ],
)
def test_a_cpu_that_emulates_bf16_trains_in_fp32(
    monkeypatch: pytest.MonkeyPatch, asked: Literal["bf16", "fp32"], native: bool, gpu: bool, bf16: bool
) -> None:
    import torch

    from masa_training.distill.model import in_bf16

    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: native, raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    config = load_config("smollm2-135m-plan")
    assert in_bf16(replace(config, precision=asked)) is bf16
