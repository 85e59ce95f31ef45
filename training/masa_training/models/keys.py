"""Keys of servers. Settings are written into run folders, so they name the environment variable that holds the key."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any

from masa_training.errors import TrainingError

_SIGNED_IN = re.compile(r"://[^/@\s]+@")


def check_keyless(spec: str, options: Mapping[str, Any], where: str) -> None:
    """Refuse a model whose settings hold its key or a password; `where` names them in the error.

    Raises:
        TrainingError: it does not repeat the secret.
    """
    if not isinstance(options, Mapping):
        raise TrainingError(f"{where}: options is a {type(options).__name__}; settings (key: value) belong there")
    if "api_key" in options:
        raise TrainingError(
            f"{where}: options has api_key, which would be written into a file; put the key into an environment "
            "variable and name that in the option api_key_env"
        )
    addresses = options.get("endpoints")
    if any(_SIGNED_IN.search(str(its)) for its in (spec, *(addresses if isinstance(addresses, list | tuple) else ()))):
        raise TrainingError(
            f"{where}: the server's address carries a user name or password, which would be written into a file; leave "
            "it out and name the variable of an API key in the option api_key_env"
        )


def key_in(variable: str, whose: str = "model") -> str:
    """The key that an environment variable holds.

    Raises:
        TrainingError: if it is not set.
    """
    key = os.environ.get(variable, "").strip()
    if not key:
        raise TrainingError(
            f"the environment variable {variable} is not set; put the key of the {whose}'s server there"
        )
    return key


def with_key(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options of a server's model with the key that `api_key_env` names, as `api_key`.

    Raises:
        TrainingError: if that is no variable's name, the variable is not set, or a key is given, too.
    """
    found = dict(options)
    variable = found.pop("api_key_env", None)
    if not variable:
        return found
    if not isinstance(variable, str):
        raise TrainingError(f"api_key_env is a {type(variable).__name__}; the name of a variable belongs there")
    if found.get("api_key"):
        raise TrainingError("api_key and api_key_env are both given; leave one of them out")
    return {**found, "api_key": key_in(variable)}
