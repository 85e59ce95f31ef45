"""A training run from start to end, on a random base of a few thousand weights: which weights it keeps, how it goes on,
what it refuses, and several processes."""

from __future__ import annotations

import errno
import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import masa_training.distill.run as running
from masa_training.append_only import LOCK, writing
from masa_training.distill.config import REPORTERS, SCHEDULES, DistillConfig
from masa_training.distill.events import EventLog, read_events
from masa_training.distill.run import StoppedError, train
from masa_training.distill.run_folder import claim
from masa_training.distill.trainer import HeldOut, Steps, StepTrainer
from masa_training.errors import TrainingError
from masa_training.settings import make
from tests.training.tiny_checkpoint import tiny_base
from tests.training.tiny_run import SOURCE, run, tiny_config, tiny_plan, together


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_base(tmp_path_factory.mktemp("base") / "tiny")


def events(folder: Path, name: str) -> list[dict[str, Any]]:
    return [event for event in read_events(folder / "events.jsonl") if event["event"] == name]


def weights(folder: Path) -> bytes:
    return (folder / "checkpoint" / "adapter_model.safetensors").read_bytes()


def after(steps: int) -> Callable[[], bool]:
    """Asked after every step, says when so many are done."""
    asked = iter(range(1, 1000))
    return lambda: next(asked) >= steps


def nll_is(monkeypatch: pytest.MonkeyPatch, by_step: Callable[[int], float]) -> None:
    """Held-out data on which the weights after each step are as good as told."""
    monkeypatch.setattr(
        StepTrainer, "held_out_nll", lambda self, rows: HeldOut(by_step(self.state.global_step), by_step(0))
    )


# --- which weights are kept, and when a run has lost its patience -----------------------------------


def test_a_run_that_goes_on_loses_its_patience_when_it_would_have(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny_config(base, patience=3, evaluations=7, epochs=2)
    nll_is(monkeypatch, lambda step: 1 + abs(step - 3))
    whole = run(config, tmp_path / "whole")
    assert (whole.metrics["steps"], whole.metrics["kept_step"]) == (6, 3)
    with pytest.raises(StoppedError):
        run(config, tmp_path / "run", stop=after(5))
    assert run(config, tmp_path / "run", resume=True).metrics == whole.metrics
    assert weights(tmp_path / "run") == weights(tmp_path / "whole")


def killed_at_the_end(config: DistillConfig, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All steps are taken, and nothing is written of what they led to."""

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(running, "_finish", killed)
        run(config, folder)


def test_a_run_that_was_killed_at_its_early_end_takes_no_more_steps(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny_config(base, patience=2, evaluations=7)
    nll_is(monkeypatch, lambda step: 1 + abs(step - 1))
    killed_at_the_end(config, tmp_path / "run", monkeypatch)
    done = run(config, tmp_path / "run", resume=True)
    assert (done.metrics["steps"], done.metrics["kept_step"]) == (3, 1)
    assert len(events(tmp_path / "run", "evaluated")) == 4, "step 0 and three more: nothing was trained again"
    run(config, tmp_path / "whole")
    assert weights(tmp_path / "run") == weights(tmp_path / "whole")


def test_the_end_of_training_can_be_what_is_kept(base: Path, tmp_path: Path) -> None:
    done = run(tiny_config(base, patience=3), tmp_path / "run")
    assert [event["step"] for event in events(tmp_path / "run", "evaluated")] == [0, 4, 7]
    assert done.metrics["kept_step"] == done.metrics["steps"] == 7
    assert done.metrics["validation_nll"] == events(tmp_path / "run", "evaluated")[-1]["nll"]
    last = run(tiny_config(base), tmp_path / "last")
    assert last.metrics["kept_step"] == 7
    assert weights(tmp_path / "run") == weights(tmp_path / "last")


def test_the_curves_are_written_beside_the_run(base: Path, tmp_path: Path) -> None:
    reader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    run(tiny_config(base, max_steps=2, evaluations=7, report_to=["tensorboard"]), tmp_path / "run")
    curves = reader.EventAccumulator(str(tmp_path / "run" / "tensorboard")).Reload()
    assert [point.step for point in curves.Scalars("train/loss")] == [1, 2]


def test_the_best_weights_are_found_in_a_folder_that_was_moved(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny_config(base, patience=5, evaluations=7)
    nll_is(monkeypatch, lambda step: 1 + abs(step - 2))
    killed_at_the_end(config, tmp_path / "there", monkeypatch)
    (tmp_path / "there").rename(tmp_path / "here")
    assert run(config, tmp_path / "here", resume=True).metrics["kept_step"] == 2
    run(config, tmp_path / "whole")
    assert weights(tmp_path / "here") == weights(tmp_path / "whole")


# --- what is refused, and the folder of a run that did not begin ------------------------------------


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"schedule": "cosin"}, "schedule is .*'linear', 'cosine'"),
        ({"report_to": ["wandbb"]}, "report_to is 'wandbb'; it must be one of "),
        ({"seed": -1}, "seed is -1; it must be at least 0"),
        ({"seed": 2**32}, "seed is 4294967296; it must be below"),
        ({"max_steps": -1}, "max_steps is -1; it must be at least 0"),
        ({"threads": -2}, "threads is -2; it must be at least 0"),
        ({"patience": -1}, "patience is -1; it must be at least 0"),
        ({"evaluation_samples": -5}, "evaluation_samples is -5; it must be at least 0"),
        ({"clip": -1.0}, "clip is -1.0; it must be at least 0"),
        ({"weight_decay": float("nan")}, "weight_decay is NaN"),
        ({"objective_beta": float("inf")}, "objective_beta is Infinity; a finite number"),
        ({"learning_rate": float("nan")}, "learning_rate is NaN"),
    ],
)
def test_a_setting_that_no_run_can_have_is_refused(values: dict[str, object], message: str) -> None:
    with pytest.raises(TrainingError, match=message):
        make(DistillConfig, values, "x.yaml")


def test_schedules_and_reporters_are_those_of_transformers(base: Path) -> None:
    import torch
    from transformers import get_scheduler
    from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK

    assert set(REPORTERS) <= set(INTEGRATION_TO_CALLBACK)
    for name in SCHEDULES:
        optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
        get_scheduler(name, optimizer, num_warmup_steps=1, num_training_steps=9)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"targets": "foo"}, r"targets is 'foo', but tiny has no layer 'foo' .* name some of down_proj, gate_proj, "),
        ({"targets": "q_proj,foo"}, "has no layer 'foo' that a LoRA can adapt"),
        ({"targets": "mlp"}, "has no layer 'mlp' that a LoRA can adapt"),
        ({"report_to": ["swanlab"]}, "report_to names swanlab, whose module swanlab is not installed; install it or "),
    ],
)
def test_what_base_or_machine_do_not_have_is_refused_by_the_plan(
    changes: dict[str, Any], message: str, base: Path
) -> None:
    with pytest.raises(TrainingError, match=message):
        tiny_plan(tiny_config(base, **changes))
    assert tiny_plan(tiny_config(base, targets="q_proj,v_proj")).steps


def test_overrides_that_are_no_yaml_are_told() -> None:
    from masa_training.distill.config import load_config

    for override in ("base=[", "base=2024-13-45"):
        with pytest.raises(TrainingError, match=r"--set base=.* is not YAML"):
            load_config("qwen3-4b", [override])


def test_two_cannot_train_in_one_folder(base: Path, tmp_path: Path) -> None:
    with writing(tmp_path / "run"), pytest.raises(TrainingError, match="another masa works in it"):
        run(tiny_config(base), tmp_path / "run")
    run(tiny_config(base), tmp_path / "run")
    assert not (tmp_path / "run" / LOCK).exists()


def test_a_folder_whose_run_could_not_start_takes_the_corrected_command(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(TrainingError, match="targets is 'foo'"):
        run(tiny_config(base, targets="foo"), tmp_path / "run")
    assert not (tmp_path / "run").exists()

    def broken(*_: object) -> None:
        raise TrainingError("the base is broken")

    with monkeypatch.context() as patch, pytest.raises(TrainingError, match="the base is broken"):
        patch.setattr("masa_training.distill.model.trainable", broken)
        run(tiny_config(base), tmp_path / "run")
    assert run(tiny_config(base, max_steps=1), tmp_path / "run").metrics["steps"] == 1


def test_a_failed_start_leaves_what_else_is_in_the_folder(base: Path, tmp_path: Path) -> None:
    def lesson_first() -> Any:
        (tmp_path / "run" / "before").mkdir()
        raise TrainingError("stopped in the first lesson")

    with pytest.raises(TrainingError, match="first lesson"):
        train(tiny_config(base), SOURCE, lesson_first, tmp_path / "run")
    with pytest.raises(TrainingError, match="holds a run already"):
        run(tiny_config(base), tmp_path / "run")
    assert run(tiny_config(base, max_steps=1), tmp_path / "run", resume=True).metrics["steps"] == 1


def test_a_run_that_was_killed_before_its_first_event_may_go_on_with_other_settings(base: Path, tmp_path: Path) -> None:
    claim(tmp_path / "run", tiny_config(base, rank=3), SOURCE, False)
    with pytest.raises(TrainingError, match="holds a run already"):
        run(tiny_config(base, max_steps=1), tmp_path / "run")
    assert run(tiny_config(base, max_steps=1), tmp_path / "run", resume=True).metrics["steps"] == 1
    with pytest.raises(TrainingError, match="its run is finished"):
        run(tiny_config(base, max_steps=1), tmp_path / "run", resume=True)


# --- a full disk ------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", ["masa_training.distill.run.write_checkpoint", "StepTrainer.save_model"])
def test_a_disk_that_is_full_at_the_end_is_told_and_nothing_is_trained_again(
    place: str, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, _internal_call: bool = False) -> None:
        if not _internal_call:
            raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        if place.startswith("StepTrainer"):
            save = StepTrainer.save_model
            patch.setattr(
                StepTrainer,
                "save_model",
                lambda self, to, _internal_call=False: save(self, to, True) if _internal_call else full(),
            )
        else:
            patch.setattr(place, full)
        with pytest.raises(TrainingError, match="at step 7"):
            run(tiny_config(base), tmp_path / "run")
    done = run(tiny_config(base), tmp_path / "run", resume=True)
    assert done.metrics["steps"] == 7
    steps = [event["step"] for event in events(tmp_path / "run", "evaluated")]
    # transformers 5 also evaluates after the last step.
    assert steps in ([0, 4], [0, 4, 7]), "none a second time"


def test_events_that_cannot_be_written_end_a_run_in_words(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("masa_training.append_only.append_lines", full)
    with pytest.raises(TrainingError, match=r"events.jsonl"):
        EventLog(tmp_path / "events.jsonl").write("started")
    with pytest.raises(TrainingError, match=r"events.jsonl: cannot be written"):
        run(tiny_config(base), tmp_path / "run")


# --- several processes ------------------------------------------------------------------------------


def test_steps_of_several_processes_take_as_many_passes_and_the_first_fill_the_last_up(base: Path) -> None:
    planned = tiny_plan(tiny_config(base)).steps
    rows = [len(step) for step in planned]
    assert len(set(rows)) == 2 and len(rows) == 7
    alone = Steps(planned)
    assert [alone[i].passes for i in range(len(alone))] == rows
    shared = Steps(planned, 2)
    assert [shared[i].rows for i in range(len(shared))] == [*planned, planned[0]]
    pairs = [max(rows[i], [*rows, rows[0]][i + 1]) for i in range(0, 7, 2)]
    assert [shared[i].passes for i in range(len(shared))] == [passes for passes in pairs for _ in "ab"]


@pytest.mark.timeout(240)
def test_two_processes_share_the_steps_of_one_run(base: Path, tmp_path: Path) -> None:
    from safetensors.numpy import load_file

    config = tiny_config(base, patience=2)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive"}
    if sys.platform == "linux":  # else gloo asks a name server where this machine is
        environment["GLOO_SOCKET_IFNAME"] = "lo"
    launcher = ["-m", "torch.distributed.run", "--nproc_per_node", "2", "--master_port", port]
    words = [sys.executable, *launcher, "-m", "tests.training.tiny_run", json.dumps(config.to_dict()), str(tmp_path)]
    launched = subprocess.Popen(words, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        said, complaints = launched.communicate(timeout=200)
    finally:
        launched.terminate()  # not killed: it ends processes that wait for each other
        launched.wait(60)
    assert launched.returncode == 0 and said == "done\n", complaints
    whole = tmp_path / "whole"
    told = [(event["event"], event.get("step"), event.get("steps")) for event in read_events(whole / "events.jsonl")]
    assert told == [
        ("started", None, 4),
        ("evaluated", 0, None),
        ("trained", 2, None),
        ("evaluated", 2, None),
        ("saved", 2, None),
        ("trained", 4, None),
        ("evaluated", 4, None),
        ("saved", 4, None),
        ("finished", None, 4),
    ], "seven steps in four turns, told once"
    assert weights(tmp_path / "stopped") == weights(whole)
    with pytest.raises(TrainingError, match=r"run has 2"):
        run(config, tmp_path / "stopped", resume=True)

    train(config, SOURCE, lambda: together(tiny_plan(config), 2), tmp_path / "alone")
    run(tiny_config(base, patience=2, max_steps=4), tmp_path / "other")

    def differs(one: Path) -> float:
        mine, theirs = (load_file(folder / "checkpoint" / "adapter_model.safetensors") for folder in (one, whole))
        return max(float(abs(mine[name] - theirs[name]).max()) for name in theirs)

    assert differs(tmp_path / "alone") < 1e-4, "the gradients of two steps are averaged"
    assert differs(tmp_path / "other") > 1e-3
