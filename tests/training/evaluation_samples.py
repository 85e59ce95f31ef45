"""A small generated data set and models whose likes are known, for the tests of the evaluation."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from masa.artifact import Artifact
from masa.manifest import TrainingData
from masa.prompt import CHATML, PROMPT_VERSION, Request
from masa.skills import Group, Skill
from masa_training.dataset.folder import Dataset, DatasetInfo, write_dataset
from masa_training.evaluate.rewriter.running import Subject
from masa_training.samples import Sample
from tests.support import STOP, VOCABULARY, ScriptedBackend, ScriptedSession

PLANS = ("1 limit 1\n2 keep", "1 keep\n2 emphasise\n+ warn loop", "1 condition-action\n2 first")


def group(tree: int) -> Group:
    """Two skills, other ones for every tree."""
    first = f"Open box {tree} and read its label. If the label is torn, put the box aside. Then take the next box."
    second = f"When shelf {tree} is full, stop at once. Otherwise go on with the work and count what is left."
    return Group(
        "sorting", (Skill(f"a{tree}", "Open boxes", first, "at the start"), Skill(f"b{tree}", "Full shelves", second))
    )


def sample(tree: int, kind: int, *, generated: bool = True, **changes: Any) -> Sample:
    """The sample of a tree for a card of one of three kinds; each kind has its plan."""
    card = {"family": f"Reader{kind}", "weaknesses": f"weak spot {kind}", "num_layers": 10 + tree * generated}
    values: dict[str, Any] = {
        "id": f"s{tree}-{kind}",
        "request": Request(group(tree), card, "sorting"),
        "language": "plan",
        "target": PLANS[kind],
        "backbone": f"reader-{kind}-{tree}" if generated else f"reader-{kind}",
        "source": "bootstrap" if generated else "base",
        "synthetic": generated,
        "environment": "" if generated else "store",
        "tags": {"tree": f"t{tree}", "behaviours": "seen" if kind else "unseen"} if generated else {},
    }
    return Sample(**{**values, **changes})


def samples(trees: int, **options: Any) -> list[Sample]:
    return [sample(tree, kind, **options) for tree in range(trees) for kind in range(3)]


def dataset(test: Sequence[Sample], *, cards: dict[str, Any] | None = None, **changes: Any) -> Dataset:
    values: dict[str, Any] = {
        "name": "boxes",
        "language": "plan",
        "prompt_version": PROMPT_VERSION,
        "seed": 0,
        "synthetic": True,
        "context_length": 4096,
        "summary": "Boxes.",
        "licence": "Apache-2.0",
        "cards": cards or {},
    }
    files = {f"{name}.jsonl": {"sha256": "0" * 64, "samples": 0} for name in ("train", "validation", "test")}
    return Dataset(DatasetInfo(**{**values, "files": files, **changes}), (), (), tuple(test))


def written(folder: Path, test: Sequence[Sample], **changes: Any) -> Path:
    made = dataset(test, **changes)
    write_dataset(folder, made, "# Boxes\n")
    return folder


class LikingSession(ScriptedSession):
    """Logits that follow the script at the place, where the script is asked with what has been written so far."""

    def _logits(self, slot: int, end: int) -> np.ndarray:
        tokens = self.sequences[slot][:end]
        prompt = bytes(t for t in tokens[: self.begun[slot]] if t < 256).decode()
        done = tokens[self.begun[slot] :]
        backend = self.backend
        assert isinstance(backend, LikingBackend)
        backend.computed += 1
        wish = [*backend.likes(prompt).encode(), STOP]
        logits = np.zeros(VOCABULARY, np.float32)
        seed = hashlib.sha256(repr((backend.seed, tokens if backend.reads_card else _without_card(tokens))).encode())
        generator = np.random.default_rng(int.from_bytes(seed.digest()[:8], "big"))
        logits += generator.normal(0, backend.noise, VOCABULARY).astype(np.float32)
        if done == wish[: len(done)]:
            logits[wish[len(done)]] += backend.strength
        return logits


def _without_card(tokens: list[int]) -> Any:
    return len(tokens)


class LikingBackend(ScriptedBackend):
    """Prefers, by `strength`, what `likes` makes of the prompt; everything else is noise."""

    def __init__(
        self,
        likes: Callable[[str], str],
        *,
        strength: float = 8.0,
        noise: float = 0.0,
        seed: int = 0,
        reads_card: bool = True,
    ) -> None:
        super().__init__(likes, noise=noise)
        self.likes, self.strength, self.seed, self.reads_card = likes, strength, seed, reads_card
        self.computed = 0

    def session(self, *, slots: int, length: int) -> LikingSession:
        session = LikingSession(self, slots, length)
        self.sessions.append(session)
        return session


def card_reader(prompt: str) -> str:
    """Writes the plan that the card asks for; without a card the first."""
    card = prompt[prompt.rindex("Reader:") :]
    kind = next((kind for kind in range(3) if f"family: Reader{kind}" in card), 0)
    return PLANS[kind]


def artifact(**changes: Any) -> Artifact:
    values: dict[str, Any] = {
        "name": "liking",
        "version": "1",
        "kind": "gguf",
        "language": "plan",
        "prompt_version": PROMPT_VERSION,
        "base_model": "none",
        "weights": "none",
        "adapter": None,
        "chat_template": CHATML,
        "context_length": 100_000,
        "quantization": None,
        "training_summary": "none",
        "trained": True,
        "training_data": TrainingData(),
        "licence": "none",
        "files": {},
        "packaged": {},
        "fingerprint": "f" * 64,
        "path": Path(),
        "paths": MappingProxyType({}),
    }
    return Artifact(**{**values, **changes})


def subject(backend: ScriptedBackend, model: str = "trained", **changes: Any) -> Subject:
    return Subject(model, artifact(**changes), None, lambda: backend, lambda: backend, "f" * 64)
