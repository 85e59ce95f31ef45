"""Weights of backbones by name: `models/backbones/NAME.json` says where a GGUF file comes from and how to know it.

Nothing is downloaded here: `masa pull NAME` fetches the file into `data_dir()/weights/<sha256>/`.
"""

from __future__ import annotations

import os
import shlex
from dataclasses import dataclass
from pathlib import Path

from masa.artifact import damage, list_artifacts, load_artifact
from masa.errors import ArtifactError, CardError, FormatError
from masa.files import read_bytes
from masa.folders import data_dir, models_dir
from masa.json_fields import Fields, did_you_mean
from masa.manifest import MANIFEST_NAME, FileEntry, PackagedEntry, load_object, packaged_entry


@dataclass(frozen=True, slots=True)
class NamedWeights:
    """A publisher's GGUF file.

    Attributes:
        card: name of the shipped card of the model.
        repository, revision: of the Hugging Face Hub, where `filename` lies at the top.
        parts: packages whose files, one after the other, are the same bytes; for machines that reach no Hub.
    """

    name: str
    card: str
    licence: str
    filename: str
    entry: FileEntry
    repository: str
    revision: str
    parts: tuple[PackagedEntry, ...]

    @property
    def path(self) -> Path:
        """Where `masa pull` keeps the file, whether or not it is there."""
        return data_dir() / "weights" / self.entry.sha256 / self.filename


def list_weights() -> dict[str, Path]:
    """Every backbone whose weights can be pulled by name, with the file that describes them."""
    return {path.stem: path for path in sorted((models_dir() / "backbones").glob("*.json"))}


def named_weights(name: str) -> NamedWeights:
    """The description of a backbone's weights.

    Raises:
        ArtifactError: if there is none of that name, or its file is wrong.
    """
    known = list_weights()
    if name not in known:
        raise ArtifactError(f'no backbone "{name}"{did_you_mean(name, known)} (known: {", ".join(known)})')
    path = known[name]
    try:
        fields = Fields(load_object(read_bytes(path), str(path)), str(path), ArtifactError)
    except FormatError as error:
        raise ArtifactError(str(error)) from None
    fields.only("card licence file sha256 bytes hub packages")
    hub = fields.nested("hub", "repository revision")
    parts = fields.get("packages", lambda v: isinstance(v, list) and all(isinstance(p, dict) for p in v), "a list")
    return NamedWeights(
        name=name,
        card=fields.string("card"),
        licence=fields.string("licence"),
        filename=fields.string("file"),
        entry=FileEntry(fields.sha256(), fields.integer("bytes")),
        repository=hub.string("repository"),
        revision=hub.string("revision"),
        parts=tuple(
            packaged_entry(Fields(part, str(path), ArtifactError, inside=f"packages[{number}]."))
            for number, part in enumerate(parts)
        ),
    )


def find_weights(spec: str | os.PathLike[str], *, verify: bool = True, or_else: str = "") -> Path:
    """The weights that a user names: a file, a folder with an artifact, a rewriter's or a backbone's name.

    Args:
        or_else: what the caller takes besides, for the error, as in " or a server".

    Raises:
        ArtifactError: if there are none, or they are damaged; the message says which command brings them.
    """
    text = os.fspath(spec)
    path = Path(text).expanduser()
    known, artifacts = list_weights(), list_artifacts()
    if path.is_file() and path.suffix.lower() not in (".yaml", ".yml", ".json"):
        return path
    if text in known and text not in artifacts and not path.exists():
        weights = named_weights(text)
        advice = f"run: masa pull {shlex.quote(text)}"
        if not weights.path.is_file():
            size = f"{weights.entry.size / 1e6:,.0f} MB"
            raise ArtifactError(f"{text}: its weights ({weights.filename}, {size}) are not on this machine; {advice}")
        problem = damage(weights.path, weights.entry, verify=verify)
        if problem is not None:
            raise ArtifactError(f"{weights.path}: {problem}; {advice}")
        return weights.path
    if text in artifacts or (path / MANIFEST_NAME).is_file():
        return load_artifact(text, verify=verify).weights_path
    names = dict.fromkeys((*artifacts, *known))
    if hint := did_you_mean(text, names):
        raise ArtifactError(f"{text}: no such model{hint}")
    what = "a folder without an artifact" if path.is_dir() else "no such model"
    if path.is_file() or _is_card(text):
        what = "a model card, not the model itself"
    brought = f"a name that masa pull brings ({', '.join(names)})"
    raise ArtifactError(f"{text}: {what}; give a GGUF file{', ' if or_else else ' or '}{brought}{or_else}")


def _is_card(name: str) -> bool:
    from masa.cards import find_shipped

    try:
        return bool(find_shipped(name))
    except CardError:
        return False
