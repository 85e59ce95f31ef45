"""Threads share a rewriter: a short run of `benchmarks/threads.py` on a tiny model in llama.cpp."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest

from masa.rewriter import Rewriter

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent / "benchmarks"))
threads = importlib.import_module("threads")

pytestmark = pytest.mark.model


@pytest.mark.parametrize("keep_warm", [False, True])
def test_requests_from_many_threads_are_answered_as_by_one(smollm2: Path, tmp_path: Path, keep_warm: bool) -> None:
    artifact = threads.tiny_artifact(tmp_path)
    with Rewriter.load(artifact, cache=False, threads=1, keep_warm=keep_warm) as rewriter:
        outcome = threads.run(rewriter, requests=60, distinct=6, threads=8, bad=0.3, seed=1)
    assert outcome.wrong == []
    assert outcome.ended["good: as by one thread"] == 42
    assert sum(count for ended, count in outcome.ended.items() if ended.startswith("bad")) == 18
