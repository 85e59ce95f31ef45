"""The trial run of llama.cpp survives whatever llama.cpp does, and tells how far it got."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from masa.llama_trial import run_trial

GOOD = """
__version__ = "0.3.36"
def llama_print_system_info(): return b"CPU : AVX2 = 1 | "
def llama_supports_gpu_offload(): return False
class Llama:
    def __init__(self, model_path, **options): pass
    def eval(self, tokens): pass
"""


@pytest.fixture
def planted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):  # type: ignore[no-untyped-def]
    """Put a llama_cpp of our own in the way of the real one."""

    def plant(source: str) -> None:
        (tmp_path / "llama_cpp.py").write_text(source, "utf-8")
        monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)

    return plant


def test_a_good_build_gets_to_the_end(planted) -> None:  # type: ignore[no-untyped-def]
    planted(GOOD)
    trial = run_trial(Path("weights.gguf"))
    assert trial.works and trial.reached == trial.tried == "decode"
    assert (trial.version, trial.system_info) == ("0.3.36", "CPU : AVX2 = 1 | ")


def test_without_weights_only_the_import_is_tried(planted) -> None:  # type: ignore[no-untyped-def]
    planted(GOOD.replace("pass\n    def", "1/0\n    def"))
    trial = run_trial(None)
    assert trial.works and trial.tried == "import"


@pytest.mark.skipif(sys.platform == "win32", reason="signals of Unix")
@pytest.mark.parametrize(
    ("source", "reached"),
    [
        ("import os, signal; os.kill(os.getpid(), signal.SIGILL)\n" + GOOD, "start"),
        (GOOD.replace("**options): pass", "**o):\n        import os; os.kill(os.getpid(), 4)"), "import"),
        (GOOD.replace("tokens): pass", "tokens):\n        import os; os.kill(os.getpid(), 4)"), "load"),
    ],
    ids=["at import", "while loading", "while computing"],
)
def test_an_illegal_instruction_kills_only_the_trial(planted, source: str, reached: str) -> None:  # type: ignore[no-untyped-def]
    planted(source)
    trial = run_trial(Path("weights.gguf"))
    assert trial.crash == "SIGILL" and trial.error is None and not trial.works
    assert trial.reached == reached


def test_an_exception_is_told_by_its_last_line(planted) -> None:  # type: ignore[no-untyped-def]
    planted(GOOD.replace("**options): pass", "**options): raise ValueError('no such tensor')"))
    trial = run_trial(Path("weights.gguf"))
    assert trial.crash is None and trial.error == "ValueError: no such tensor"
    assert trial.next_stage == "load"


def test_noise_on_the_output_is_no_news(planted) -> None:  # type: ignore[no-untyped-def]
    planted("print('llama banner'); print('[1]'); print('{broken')\n" + GOOD)
    assert run_trial(None).works


def test_a_build_that_hangs_is_given_up(planted) -> None:  # type: ignore[no-untyped-def]
    planted(GOOD.replace("tokens): pass", "tokens):\n        import time; time.sleep(60)"))
    trial = run_trial(Path("weights.gguf"), timeout=2)
    assert trial.error == "no answer within 2 s" and trial.reached == "load"


@pytest.mark.model
def test_real_weights_compute_tokens_here(smollm2: Path) -> None:
    trial = run_trial(smollm2)
    assert trial.works and trial.reached == "decode"
