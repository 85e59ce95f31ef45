"""Reading YAML into typed settings: what every configuration of this package shares."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from masa.errors import FormatError
from masa.files import parse_yaml, read_text
from masa_training.errors import TrainingError


def find_config(name_or_path: str, shipped: Path, what: str) -> Path:
    """The shipped configuration of that name, or else the file.

    Raises:
        TrainingError: if there is neither; the closest name is suggested.
    """
    path = shipped / f"{name_or_path}.yaml"
    if path.is_file():
        return path
    path = Path(name_or_path)
    if path.is_file():
        return path
    names = config_names(shipped)
    close = difflib.get_close_matches(name_or_path, names, n=1)
    hint = f"did you mean {close[0]}?" if close else f"the shipped ones are {', '.join(names)}"
    raise TrainingError(f"{name_or_path}: no such {what}; {hint}")


def config_names(shipped: Path) -> tuple[str, ...]:
    """Names of the configurations in a folder."""
    return tuple(sorted(path.stem for path in shipped.glob("*.yaml")))


def read_settings(path: Path) -> dict[str, Any]:
    """The settings (key: value) of a YAML file; none in an empty one.

    Raises:
        TrainingError: if it cannot be read, or holds something else.
    """

    try:
        values = parse_yaml(read_text(path))
    except (FormatError, ValueError) as error:
        raise TrainingError(f"{path}: not readable as YAML ({' '.join(str(error).split())[:150]})") from None
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise TrainingError(f"{path}: found {type(values).__name__} where settings (key: value) belong")
    return values


def check_known(values: Mapping[str, Any], names: Iterable[str], where: str) -> None:
    """Refuse a setting that there is not.

    Raises:
        TrainingError: naming it, with the closest one that there is.
    """
    known = list(names)
    for key in values:
        if key not in known:
            close = difflib.get_close_matches(str(key), known, n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"the settings are {', '.join(known)}"
            raise TrainingError(f"{where}: unknown setting {key!r}; {hint}")


def overridden(values: Mapping[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """Nested settings with `a.b=value` overrides, values in YAML.

    Raises:
        TrainingError: if one is not `key=value`, is not YAML, or leads into something that holds no settings.
    """

    result: dict[str, Any] = {**values}
    for override in overrides:
        key, separator, text = override.partition("=")
        if not separator:
            raise TrainingError(f"--set {override}: write it as key=value")
        *path, last = key.strip().split(".")
        at = result
        for name in path:
            inner = at.get(name) or {}
            if not isinstance(inner, dict):
                raise TrainingError(f"--set {override}: {name} holds no settings")
            at[name] = {**inner}
            at = at[name]
        try:
            at[last] = parse_yaml(text)
        except ValueError:
            raise TrainingError(f"--set {override}: {text} is not YAML; quote it or correct it") from None
    return result
