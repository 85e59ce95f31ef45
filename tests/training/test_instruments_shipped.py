"""The instruments that lie trained in the checkout: found by name, and of the preference that they are for."""

from __future__ import annotations

from pathlib import Path

import pytest

import masa_training.instruments.shipped as shipped
from masa.formats import load_bank
from masa_training import configs
from masa_training.environments import open_environment
from masa_training.errors import TrainingError
from masa_training.instruments import instrument_names
from masa_training.instruments.conversations import AGENT
from masa_training.instruments.shipped import find_instrument, shipped_instruments
from masa_training.models import open_model
from masa_training.rollouts import Arm, Job, WorkerSpec, opened

BANKS = Path(configs.__file__).parent / "banks" / "lookup"
TASKS = 12


def test_every_description_has_its_trained_instrument() -> None:
    assert set(shipped_instruments()) == set(instrument_names())


@pytest.mark.parametrize("name", instrument_names())
def test_a_trained_instrument_is_small(name: str) -> None:
    sizes = {path.name: path.stat().st_size for path in find_instrument(name).iterdir()}
    assert sizes.keys() == {"adapter_config.json", "adapter_model.safetensors", "masa.json"}
    assert sum(sizes.values()) < 12_000_000


def test_an_unknown_name_is_refused_with_what_is_there() -> None:
    with pytest.raises(TrainingError, match=r'no such trained instrument.*"terse".*one that you made is checkpoint'):
        open_model("instrument:ters")


def test_where_none_are_the_command_that_makes_one_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shipped, "models_dir", lambda: tmp_path)
    with pytest.raises(TrainingError, match=r"runs/terse"):
        find_instrument("terse")


@pytest.mark.model
@pytest.mark.parametrize(
    ("name", "liked", "disliked"), [("terse", "concise", "stepwise"), ("stepwise", "stepwise", "concise")]
)
def test_it_acts_on_what_it_likes_and_lapses_on_what_it_dislikes(
    smollm2: Path, name: str, liked: str, disliked: str
) -> None:
    """Lapsing on lookup is to answer without reading, so that an episode has one step."""
    spec = WorkerSpec(
        environment="lookup",
        split="test",
        model=f"instrument:{name}",
        model_options={"scoring": "constrained", "slots": 8},
        arms={arm: Arm(name=arm, bank=load_bank(BANKS / f"{arm}.json")) for arm in (liked, disliked)},
        agent=AGENT,
        slots=8,
    )
    tasks = [task for task in open_environment("lookup").tasks("test") if task.type == "direct_retrieval"][:TASKS]
    with opened(spec, open_model(spec.model, **spec.model_options)) as player:
        episodes = list(player.play([Job(arm, task.id, 0) for arm in (liked, disliked) for task in tasks]))
    assert len(episodes) == 2 * TASKS
    reads = {
        arm: sum(episode.steps > 1 for episode in episodes if episode.job.arm == arm) / TASKS
        for arm in (liked, disliked)
    }
    assert reads[liked] >= 0.75 and reads[disliked] <= 0.25, reads
