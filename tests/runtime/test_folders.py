from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import masa
from masa.errors import MasaError
from masa.folders import cache_dir, data_dir, models_dir


def run_in_copy(package: Path, code: str) -> str:
    """Run `code` with `masa` imported from `package`, as another installation would."""
    shutil.copytree(Path(masa.__file__).parent, package, ignore=shutil.ignore_patterns("__pycache__", "_models"))
    result = subprocess.run(
        [sys.executable, "-S", "-c", code],
        env={"PYTHONPATH": str(package.parent), "HOME": str(package.parent)},
        capture_output=True,
        text=True,
        check=False,
    )
    return result.stdout.strip() or result.stderr.strip()


SHOW = "from masa.folders import models_dir; print(models_dir())"


def test_the_checkout_has_the_shipped_models() -> None:
    assert (models_dir() / "rewriters" / "smollm2-135m" / "manifest.json").is_file()


def test_a_wheel_finds_the_models_inside_the_package(tmp_path: Path) -> None:
    package = tmp_path / "site-packages" / "masa"
    (tmp_path / "models" / "cards").mkdir(parents=True)  # a stranger's folder two levels up
    (tmp_path / "site-packages").mkdir()
    code = f"import pathlib; pathlib.Path({str(package / '_models' / 'cards')!r}).mkdir(parents=True)\n{SHOW}"
    assert run_in_copy(package, code) == str(package / "_models")


def test_a_checkout_wins_over_a_copy_that_a_build_left(tmp_path: Path) -> None:
    package = tmp_path / "runtime" / "masa"
    (tmp_path / "models" / "cards").mkdir(parents=True)
    code = f"import pathlib; pathlib.Path({str(package / '_models' / 'cards')!r}).mkdir(parents=True)\n{SHOW}"
    assert run_in_copy(package, code) == str(tmp_path / "models")


def test_an_incomplete_installation_says_so(tmp_path: Path) -> None:
    assert "the installation is incomplete" in run_in_copy(tmp_path / "masa", SHOW)


def test_masa_home_replaces_every_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MASA_HOME", str(tmp_path))
    assert data_dir() == tmp_path
    assert cache_dir() == tmp_path / "cache"
    assert list(tmp_path.iterdir()) == [], "asking for a place must not create it"


def test_masa_home_may_begin_with_a_tilde(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    monkeypatch.setenv("MASA_HOME", "~/masa data")
    assert data_dir() == tmp_path / "masa data"


@pytest.mark.parametrize(
    ("platform", "data", "cache"),
    [
        ("linux", ".local/share/masa", ".cache/masa"),
        ("darwin", "Library/Application Support/masa", "Library/Caches/masa"),
        ("win32", "AppData/Local/masa", "AppData/Local/masa/cache"),
    ],
)
def test_each_platform_has_its_places(
    platform: str, data: str, cache: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("MASA_HOME", "XDG_DATA_HOME", "XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(sys, "platform", platform)
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    assert data_dir() == tmp_path / data
    assert cache_dir() == tmp_path / cache


def test_xdg_variables_count_unless_relative(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MASA_HOME", raising=False)
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "d"))
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert data_dir() == tmp_path / "d" / "masa"
    assert cache_dir() == tmp_path / ".cache" / "masa"


def test_a_user_without_home_is_told_what_to_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MASA_HOME", "XDG_DATA_HOME"):
        monkeypatch.delenv(name, raising=False)

    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(Path, "home", homeless)
    with pytest.raises(MasaError, match="set MASA_HOME"):
        data_dir()
