"""From what a user calls a model to a model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from masa.errors import ArtifactError
from masa.formats.gguf_header import is_gguf
from masa.model_names import meant_server
from masa.weights import find_weights
from masa_training.errors import TrainingError
from masa_training.models.protocol import Model

if TYPE_CHECKING:
    from masa_training.models.openai import ServerOptions

_KINDS = ("llama", "transformers", "checkpoint", "instrument", "openai", "replay")


def open_model(spec: str, **options: Any) -> Model:
    """The model that `spec` names.

    - `llama:PATH.gguf` or `llama:ARTIFACT`, or just the path or the artifact's name: `open_llama`.
    - `transformers:FOLDER`, also a GGUF file or an artifact, de-quantized: `open_transformers`.
    - `checkpoint:FOLDER` of `masa distill`: `open_checkpoint_model`.
    - `instrument:NAME`, one that lies trained in a checkout of masa (docs/instruments.md).
    - `openai:http://host:port/v1#MODEL`: `ServerModel`; the options are those of `ServerOptions`, and `api_key_env`
      instead of `api_key`: the environment variable that holds it.
    - `replay:FILE`, what a `RecordingModel` wrote: `replay_model`.

    Raises:
        TrainingError: if the kind, the model or an option is unknown, or the model cannot be opened.
    """
    kind, rest = _split(spec)
    try:
        return _opener(kind)(rest, **options)
    except TypeError as error:
        if "unexpected keyword argument" not in str(error):
            raise
        unknown = str(error).rpartition("argument ")[2]
        raise TrainingError(f"{spec}: a model of the kind {kind} has no option {unknown}; see docs/models.md") from None


def check_model(spec: str, options: Mapping[str, Any]) -> None:
    """Refuse what `open_model` would, as far as it shows without loading weights or asking a server.

    Raises:
        MasaError: as `open_model`, if there is no such model, or a server's model, options or key are wrong.
    """
    kind, rest = _split(spec)
    if kind == "openai":
        _server(rest, options)
    elif kind == "instrument":
        from masa_training.instruments.shipped import find_instrument

        find_instrument(rest)
    elif kind == "checkpoint":
        from masa_training.checkpoint import find_base, read_checkpoint

        find_base(read_checkpoint(rest))
    elif kind == "replay":
        if not Path(rest).is_file():
            raise TrainingError(f"{rest}: no such recording; check the path")
    elif kind == "llama" or not Path(rest).expanduser().is_dir():
        find_gguf(rest, verify=False)


def find_gguf(spec: str, *, verify: bool = True) -> Path:
    """The GGUF file of a model in this process.

    Raises:
        TrainingError: if `spec` names none.
    """
    or_else = ", transformers:FOLDER or a server as openai:URL#MODEL"
    try:
        path = find_weights(spec, verify=verify, or_else=or_else)
    except ArtifactError as error:
        raise TrainingError(str(error)) from None
    if not is_gguf(path):
        raise TrainingError(f"{path}: not a GGUF file; give one{or_else}")
    return path


def _split(spec: str) -> tuple[str, str]:
    """The kind of a model, and what is behind it."""
    kind, behind, rest = spec.partition(":")
    if not behind or kind not in _KINDS:
        if spec.startswith(("http://", "https://")):
            kind, rest = "openai", spec
        elif (Path(spec).expanduser() / "masa.json").is_file():
            kind, rest = "checkpoint", spec
        elif not behind or len(kind) == 1 or Path(spec).expanduser().exists():
            kind, rest = "llama", spec
        else:
            server = meant_server(spec)
            raise TrainingError(
                f"{spec}: unknown kind of model {kind!r}; the known ones are {', '.join(_KINDS)}"
                + (f"; a server is openai:{server}" if server else "")
            )
    if not rest:
        raise TrainingError(f"{spec}: no model is named behind the colon")
    return kind, rest


def _opener(kind: str) -> Callable[..., Model]:
    if kind == "llama":
        from masa_training.models.llama import open_llama

        return open_llama
    if kind == "transformers":
        from masa_training.models.transformers import open_transformers

        return open_transformers
    if kind == "checkpoint":
        from masa_training.models.transformers import open_checkpoint_model

        return open_checkpoint_model
    if kind == "instrument":
        return _open_instrument
    if kind == "replay":
        from masa_training.models.scripted import replay_model

        return replay_model
    return _open_server


def _open_instrument(name: str, **options: Any) -> Model:
    from masa_training.instruments.shipped import find_instrument
    from masa_training.models.transformers import open_checkpoint_model

    return open_checkpoint_model(str(find_instrument(name)), **options)


def _open_server(address: str, **options: Any) -> Model:
    from masa_training.models.openai import ServerModel

    return ServerModel(*_server(address, options))


def _server(address: str, options: Mapping[str, Any]) -> tuple[str, str, ServerOptions]:
    """The address of a server's API, the model there, and how it is asked."""
    from masa_training.models.keys import with_key
    from masa_training.models.openai import ServerOptions

    base, _, model = address.partition("#")
    if not model:
        raise TrainingError(f"{address}: name the model behind the address, as in {base}#MODEL")
    known = {"api_key_env", *(option.name for option in fields(ServerOptions))}
    if unknown := sorted(set(options) - known):
        raise TrainingError(f"a server has no option {unknown[0]!r}; the known ones are {', '.join(sorted(known))}")
    return base, model, ServerOptions(**with_key(options))
