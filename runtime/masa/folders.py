"""Where things are: the data that ships with masa, the user's data and cache.

Nothing here creates a folder. By hand, as platformdirs is no dependency of a device.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from masa.errors import MasaError

HOME_VARIABLE = "MASA_HOME"
"""Environment variable that replaces the platform's folder for both data and cache."""


def models_dir() -> Path:
    """The folder `models` with the shipped `cards` and `rewriters`.

    In a checkout (editable install) it stands beside `runtime`; in a wheel it is `masa/_models`. The
    checkout is looked at first: a copy that a build left behind must never win over the live folder.

    Raises:
        MasaError: if there is none, which only a broken installation can cause.
    """
    package = Path(__file__).resolve().parent
    candidates = [package / "_models"]
    if package.parent.name == "runtime":
        candidates.insert(0, package.parent.parent / "models")
    for candidate in candidates:
        if (candidate / "rewriters").is_dir() or (candidate / "cards").is_dir():
            return candidate
    looked = " and ".join(str(candidate) for candidate in candidates)
    raise MasaError(f"{looked}: no shipped models there; the installation is incomplete, reinstall masa-skills")


def data_dir() -> Path:
    """Where pulled rewriters and weights are kept: `$MASA_HOME`, else the platform's place for data."""
    home = _masa_home()
    if home is not None:
        return home
    if sys.platform == "darwin":
        return _user_home() / "Library" / "Application Support" / "masa"
    if sys.platform == "win32":
        return _folder_variable("LOCALAPPDATA", "AppData/Local") / "masa"
    return _folder_variable("XDG_DATA_HOME", ".local/share") / "masa"


def cache_dir() -> Path:
    """Where things are kept that may be lost at any time: `$MASA_HOME/cache`, else the platform's cache."""
    home = _masa_home()
    if home is not None:
        return home / "cache"
    if sys.platform == "darwin":
        return _user_home() / "Library" / "Caches" / "masa"
    if sys.platform == "win32":
        return _folder_variable("LOCALAPPDATA", "AppData/Local") / "masa" / "cache"
    return _folder_variable("XDG_CACHE_HOME", ".cache") / "masa"


def _masa_home() -> Path | None:
    value = os.environ.get(HOME_VARIABLE)
    return Path(_expand(value)).absolute() if value else None


def _folder_variable(name: str, default: str) -> Path:
    """The folder in the variable `name`; a relative one is ignored, as the XDG specification says."""
    value = os.environ.get(name)
    if value and Path(value).is_absolute():
        return Path(value)
    return _user_home() / default


def _user_home() -> Path:
    try:
        return Path.home()
    except RuntimeError:
        raise MasaError(f"this user has no home folder for masa's data; set {HOME_VARIABLE} to a folder") from None


def _expand(value: str) -> str:
    return str(_user_home()) + value[1:] if value == "~" or value.startswith(("~/", "~\\")) else value
