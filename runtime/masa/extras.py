"""The extras of the installed distribution, and what of each is there.

Everything comes from the distribution's own metadata, so that `pyproject.toml` stays the one place
that states a range. Ranges are read by hand: the package packaging is no dependency of a device.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

DISTRIBUTION = "masa-skills"


@dataclass(frozen=True, slots=True)
class Requirement:
    """One dependency: `range` is as in "<0.3.37,>=0.3.36", `extra` is "" for a core dependency."""

    name: str
    range: str
    extra: str

    def __str__(self) -> str:
        return self.name + self.range


@dataclass(frozen=True, slots=True)
class Found:
    """A dependency and what is installed of it: `version` is None when nothing is."""

    requirement: Requirement
    version: str | None

    @property
    def fits(self) -> bool:
        return self.version is not None and in_range(self.version, self.requirement.range)


def pip_install(extra: str = "") -> str:
    """The command that installs masa with an extra in the way it is installed here: from its source or by its name."""
    wanted = f"[{extra}]" if extra else ""
    folder, editable = _source()
    if folder is None:
        return f'pip install "{DISTRIBUTION}{wanted}"'
    place = "." if folder == Path.cwd() else folder
    return f'pip install {"-e " if editable else ""}"{place}{wanted}"'


def _source() -> tuple[Path | None, bool]:
    """The folder that masa was installed from, None without one, and whether it runs from there (PEP 610)."""
    from importlib import metadata
    from urllib.parse import unquote, urlsplit

    from masa.files import parse_json

    try:
        told = parse_json(metadata.distribution(DISTRIBUTION).read_text("direct_url.json") or "{}")
    except (metadata.PackageNotFoundError, ValueError):
        told = {}
    if "dir_info" not in told:
        return None, False
    path = unquote(urlsplit(told["url"]).path)
    folder = Path(path.removeprefix("/") if os.name == "nt" else path)
    return (folder if folder.is_dir() else None), bool(told["dir_info"].get("editable"))


def requirements() -> tuple[Requirement, ...]:
    """What the distribution requires, in its own order; empty where masa runs without being installed."""
    from importlib import metadata

    try:
        lines = metadata.requires(DISTRIBUTION) or []
    except metadata.PackageNotFoundError:
        return ()
    return tuple(_parse(line) for line in lines)


def find(requirement: Requirement) -> Found:
    """What is installed of a requirement. Looks only at metadata and imports nothing."""
    from importlib import metadata

    try:
        return Found(requirement, metadata.version(requirement.name))
    except metadata.PackageNotFoundError:
        return Found(requirement, None)


def in_range(version: str, specifiers: str) -> bool:
    """Whether a version satisfies specifiers of the operators that this project uses: >= > <= < == !=.

    Versions are compared by their leading numbers, trailing zeros not counting: "0.3.36.post1" is 0.3.36
    here. A specifier that is not understood is taken as satisfied.
    """
    have = _numbers(version)
    for operator, wanted in re.findall(r"(>=|<=|==|!=|>|<)\s*([0-9.]+)", specifiers):
        other = _numbers(wanted)
        if not {
            ">=": have >= other,
            ">": have > other,
            "<=": have <= other,
            "<": have < other,
            "==": have == other,
            "!=": have != other,
        }[operator]:
            return False
    return True


def _parse(line: str) -> Requirement:
    """A line of the metadata, such as `llguidance<2,>=1.9; extra == 'llama'`."""
    text, _, marker = line.partition(";")
    head = re.match(r"\s*([A-Za-z0-9._-]+)\s*(?:\[[^\]]*\])?\s*\(?([^)]*)", text)
    extra = re.search(r"""extra\s*==\s*['"]([^'"]+)['"]""", marker)
    name, range_ = (head[1], head[2].strip()) if head else (text.strip(), "")
    return Requirement(name, range_, extra[1] if extra else "")


def _numbers(version: str) -> tuple[int, ...]:
    numbers = re.match(r"[0-9]+(?:\.[0-9]+)*", version)
    parts = [int(part) for part in numbers[0].split(".")] if numbers else []
    while parts and parts[-1] == 0:
        parts.pop()
    return tuple(parts)
