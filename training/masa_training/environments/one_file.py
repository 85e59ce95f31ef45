"""Environments that are a single Python file: written from the template, and opened before they are installed."""

from __future__ import annotations

import importlib.util
import keyword
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from masa_training.environments.registry import environment_names
from masa_training.errors import TrainingError

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
