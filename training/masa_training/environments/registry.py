"""Environments by name: those that come with masa and those that installed packages bring.

A package adds one by an entry point of the group `masa.environments`, whose value is the class or a function that
makes an object from keyword options.
"""

from __future__ import annotations

import importlib.util
import keyword
import re
from collections.abc import Callable, Mapping
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any

from masa.errors import MissingExtraError, near_misses
from masa_training.environments.protocol import Environment
from masa_training.errors import TrainingError

GROUP = "masa.environments"

_OURS: Mapping[str, str] = {
    "alfworld": "masa_training.environments.alfworld:AlfWorld",
    "assistant": "masa_training.environments.assistant:Assistant",
    "filing": "masa_training.environments.filing:Filing",
    "household": "masa_training.environments.household:Household",
    "lookup": "masa_training.environments.lookup:Lookup",
    "search_qa": "masa_training.environments.search_qa:SearchQa",
    "webshop": "masa_training.environments.webshop:WebShop",
}
_EXTRAS = {
    **dict.fromkeys(("textworld", "alfworld", "fast_downward"), "alfworld"),
    **dict.fromkeys(("rapidfuzz", "Stemmer"), "training"),
}
"""By missing module the extra that brings it."""


def environment_names() -> tuple[str, ...]:
    """Every name that `open_environment` knows, sorted."""
    return tuple(sorted({*_OURS, *_foreign()}))


def open_environment(name: str, /, **options: Any) -> Environment:
    """A new object of the environment, which shares nothing with others of that name.

    Raises:
        TrainingError: for an unknown name (with a suggestion), an option that it does not have, or an entry point
            that cannot be loaded.
        MissingExtraError: if the environment needs an extra that is not installed.
    """
    make = _maker(name)
    try:
        made: Environment = make(**options)
    except TypeError as error:
        if not options:
            raise
        raise TrainingError(f"environment {name}: its options {', '.join(options)} do not fit ({error})") from error
    return made


def _maker(name: str) -> Callable[..., Any]:
    if name in _OURS:
        module, _, attribute = _OURS[name].partition(":")
        try:
            found: Callable[..., Any] = getattr(import_module(module), attribute)
        except ModuleNotFoundError as error:
            extra = _EXTRAS.get((error.name or "").partition(".")[0])
            if extra is None:
                raise
            raise MissingExtraError(f"the environment {name}", extra) from None
        return found
    foreign = _foreign()
    if name not in foreign:
        close = near_misses(name, environment_names())
        hint = f"did you mean {close[0]}?" if close else f"there are {', '.join(environment_names())}"
        raise TrainingError(f"no environment is called {name!r}; {hint}")
    try:
        loaded: Callable[..., Any] = foreign[name].load()
    except Exception as error:
        raise TrainingError(
            f"environment {name}: its entry point {foreign[name].value} cannot be loaded ({error}); "
            "repair or uninstall the package that brings it"
        ) from error
    return loaded


def _foreign() -> Mapping[str, EntryPoint]:
    return {point.name: point for point in entry_points(group=GROUP)}


_NAME = re.compile(r"[a-z][a-z0-9_]*")
_METHODS = ("tasks", "facts", "reset", "step", "close")


def template_source(name: str) -> str:
    """The source of a small working environment called `name`.

    Raises:
        TrainingError: if the name is no word in lower case, or is taken.
    """
    if not _NAME.fullmatch(name) or keyword.iskeyword(name):
        raise TrainingError(f"{name!r} cannot name an environment; use lower-case letters, digits and _")
    if name in environment_names():
        raise TrainingError(f"an environment {name} exists already; choose another name")
    source = (Path(__file__).parent / "template.py").read_text("utf-8")
    class_name = "".join(part.capitalize() for part in name.split("_") if part)
    return source.replace("Template", class_name).replace("template", name)


def class_in_file(path: Path) -> Callable[..., Any]:
    """The one environment class that a Python file defines. The file is executed.

    Raises:
        TrainingError: if the file cannot be executed, or defines none or several.
    """
    if not path.is_file():
        raise TrainingError(f"{path}: no such file; give the name of an environment or a Python file")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise TrainingError(f"{path}: not a Python file; give the name of an environment or a file that ends in .py")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise TrainingError(
            f"{path}: cannot be executed ({type(error).__name__}: {error}); correct the file"
        ) from error
    found = [
        value
        for value in vars(module).values()
        if isinstance(value, type)
        and value.__module__ == path.stem
        and all(callable(getattr(value, method, None)) for method in _METHODS)
    ]
    if len(found) != 1:
        names = ", ".join(its.__name__ for its in found) or "none"
        raise TrainingError(
            f"{path}: one class with the methods {', '.join(_METHODS)} is needed, but there are {names}; "
            "correct the file"
        )
    return found[0]
