"""Fixtures for every test: real data and real weights where they are, and folders of each test's own."""

from __future__ import annotations

import os
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest
from hypothesis import settings

# How long an example takes says how busy the machine is; pytest's timeout ends what hangs.
settings.register_profile("masa", deadline=None)
settings.load_profile("masa")

# llama.cpp's threads wait by spinning, which on a busy machine costs ten times the work itself.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

ROOT = Path(__file__).resolve().parent.parent
_REQUIRED = ("CI", "MASA_REQUIRE_MODELS")


@pytest.fixture(scope="session")
def repository() -> Path:
    """The root of the checkout."""
    return ROOT


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The published skill banks beside the checkout. Every test that reads them has a twin that does not."""
    data = Path(os.environ.get("MASA_SHARED_DATA", ROOT.parent / "shared" / "data"))
    if not data.is_dir():
        pytest.skip(f"no published data at {data}; set MASA_SHARED_DATA to their folder")
    return data


@pytest.fixture(scope="session")
def smollm2() -> Path:
    """The GGUF of the embedded default, SmolLM2-135M-Instruct Q4_1, with llama.cpp there to run it.

    Skips without them, but fails where CI or MASA_REQUIRE_MODELS is set: there, skipping would hide the loss.
    """
    from masa.artifact import load_artifact
    from masa.errors import MasaError

    missing = None if find_spec("llama_cpp") else "llama-cpp-python is not installed"
    if missing is None:
        try:
            return load_artifact("smollm2-135m").weights_path
        except MasaError as error:
            missing = str(error)
    if any(os.environ.get(name, "").lower() not in ("", "0", "false") for name in _REQUIRED):
        pytest.fail(missing)
    pytest.skip(missing)


@pytest.fixture(scope="session")
def qwen() -> Path:
    """The GGUF of Qwen2.5-Coder-0.5B-Instruct, with llama.cpp there to run it.

    Skips without them, in CI too, which does not fetch its 491 MB; fails where MASA_REQUIRE_MODELS is "all".
    """
    from masa.errors import MasaError
    from masa.weights import find_weights

    missing = None if find_spec("llama_cpp") else "llama-cpp-python is not installed"
    if missing is None:
        try:
            return find_weights("qwen2.5-coder-0.5b")
        except MasaError as error:
            missing = str(error)
    if os.environ.get("MASA_REQUIRE_MODELS") == "all":
        pytest.fail(missing)
    pytest.skip(missing)


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep what tests cache out of the user's cache folder; pulled weights are still found."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield
