"""What a rewrite would take, before it is started."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from masa.backends import Backend
from masa.prompt import Request, render_prompt
from masa.skills import Group


@dataclass(frozen=True, slots=True)
class GroupEstimate:
    """What rewriting one group would take; `problem` says which skills cannot be rewritten, and why, if so."""

    key: str
    skills: int
    prompt_tokens: int
    most_tokens: int
    problem: str = ""


@dataclass(frozen=True, slots=True)
class Estimate:
    """What a rewrite would take. `seconds` is an upper estimate from a short measurement on this machine."""

    shared_tokens: int
    groups: tuple[GroupEstimate, ...]
    prompt_speed: float
    decode_speed: float
    seconds: float


def measure(backend: Backend, slots: int) -> tuple[float, float]:
    """Tokens per second of reading a prompt, and of writing with `slots` sequences side by side."""
    words = backend.tokenize(render_prompt(Request(Group(None, ()), {}), "text").shared)
    sample = (words * 8)[:128]
    session = backend.session(slots=slots, length=160)
    try:
        session.share(sample[:16])
        session.begin(0, sample[:32])
        session.release(0)
        begun = time.perf_counter()
        session.begin(0, sample)
        prompt_speed = len(sample) / (time.perf_counter() - begun)
        for slot in range(1, slots):
            session.begin(slot, sample[:4])
        feeds = [(slot, sample[:1]) for slot in range(slots)]
        session.step(feeds, [1] * slots)
        begun = time.perf_counter()
        for _ in range(4):
            session.step(feeds, [1] * slots)
        return prompt_speed, 4 * slots / (time.perf_counter() - begun)
    finally:
        session.close()


def seconds(shared: int, groups: Sequence[GroupEstimate], speeds: tuple[float, float]) -> float:
    """Time for `shared` prompt tokens and the groups, at (prompt, decode) tokens/s."""
    read = shared + sum(group.prompt_tokens for group in groups)
    return read / speeds[0] + sum(group.most_tokens for group in groups) / speeds[1]
