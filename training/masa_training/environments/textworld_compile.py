"""Games in PDDL, translated once for the planner that TextWorld runs them on, and kept on disk."""

from __future__ import annotations

import functools
import gzip
import hashlib
import json
import logging
import sys
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import fast_downward

from masa.files import WriteError, make_folder, parse_json, write_atomic
from masa_training.errors import TrainingError

ENGINE_LOCK = threading.RLock()
"""Held while TextWorld or its planner works: both keep state of the process, such as parsers and standard output."""

_FORMAT = 1
_LOADED = 128
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Compiled:
    """A game as the engine loads it in a millisecond. Never changes, so that all episodes of a process share it.

    Attributes:
        sas: the translation, nothing pruned.
        parameters: of each action of the domain, (name, type).
        types: (name, names of its supertypes).
        objects: type by name.
        fluents: predicates that actions change.
        init: facts that hold at the start: predicate, then arguments.
        plan: the operators of a plan that the planner found; None where none was asked for.
    """

    sas: str
    parameters: Mapping[str, tuple[tuple[str, str], ...]]
    types: tuple[tuple[str, tuple[str, ...]], ...]
    objects: Mapping[str, str]
    fluents: frozenset[str]
    init: tuple[tuple[str, ...], ...]
    plan: tuple[str, ...] | None


class UnsolvableError(TrainingError):
    """The planner found no plan."""


def compiled(domain: str, problem: str, *, where: str, cache: Path, plan: bool = False) -> Compiled:
    """The game, from memory, from the folder `cache`, or translated (0.1 to 1 s) and then kept there.

    A cache that cannot be written costs time and a log entry; a damaged file in it is made anew.

    Raises:
        TrainingError: if the PDDL is not a game; the message begins with `where`.
        UnsolvableError: if a plan is asked for and there is none.
    """
    key = hashlib.sha256("\0".join((_engine(), str(plan), domain, problem)).encode()).hexdigest()
    return _compiled(key, cache / key[:2] / f"{key}.json.gz", lambda: _translated(domain, problem, where, plan))


_memory: dict[str, Compiled] = {}


def _compiled(key: str, path: Path, make: Callable[[], Compiled]) -> Compiled:
    with ENGINE_LOCK:
        game = _memory.pop(key, None) or _read(path)
        if game is None:
            game = make()
            _write(path, game)
        _memory[key] = game
        while len(_memory) > _LOADED:
            _memory.pop(next(iter(_memory)))
        return game


@functools.cache
def _engine() -> str:
    return f"{_FORMAT} {version('textworld')} {version('fast-downward-textworld')}"


def _read(path: Path) -> Compiled | None:
    try:
        data = parse_json(gzip.decompress(path.read_bytes()))
        return Compiled(
            sas=data["sas"],
            parameters={name: tuple((its[0], its[1]) for its in pairs) for name, pairs in data["parameters"].items()},
            types=tuple((name, tuple(above)) for name, above in data["types"]),
            objects=data["objects"],
            fluents=frozenset(data["fluents"]),
            init=tuple(tuple(fact) for fact in data["init"]),
            plan=None if data["plan"] is None else tuple(data["plan"]),
        )
    except FileNotFoundError:
        return None
    except (OSError, EOFError, ValueError, LookupError, TypeError, AttributeError) as error:
        _log.warning("%s: the cached game is damaged and is made again (%s)", path, error)
        return None


def _write(path: Path, game: Compiled) -> None:
    fields = {name: getattr(game, name) for name in ("sas", "parameters", "types", "objects", "init", "plan")}
    fields["fluents"] = sorted(game.fluents)
    try:
        make_folder(path.parent)
        write_atomic(path, gzip.compress(json.dumps(fields).encode(), compresslevel=6, mtime=0), durable=False)
    except WriteError as error:
        _log.warning("games are not cached: %s", error)


def _translated(domain: str, problem: str, where: str, plan: bool) -> Compiled:
    task, sas = _sas(domain, problem, where)
    return Compiled(
        sas=sas,
        parameters={
            action.name: tuple((its.name.strip("?"), its.type_name) for its in action.parameters)
            for action in task.actions
        },
        types=tuple((its.name, tuple(its.supertype_names)) for its in task.types),
        objects={its.name: its.type_name for its in task.objects},
        fluents=frozenset(effect.literal.predicate for action in task.actions for effect in action.effects),
        init=tuple((atom.predicate, *atom.args) for atom in task.init if getattr(atom, "predicate", "=") != "="),
        plan=_planned(sas, _sas(domain, problem, where, optimize=True)[1], where) if plan else None,
    )


def _sas(domain: str, problem: str, where: str, *, optimize: bool = False) -> tuple[Any, str]:
    arguments = sys.argv
    try:
        task, sas = fast_downward.pddl2sas(domain, problem, optimize=optimize)
        return task, sas
    except (Exception, SystemExit) as error:  # what it raises for bad PDDL, it does not say
        raise TrainingError(
            f"{where}: its PDDL cannot be translated ({type(error).__name__}: {' '.join(str(error).split())[:200]}); "
            "restore the game"
        ) from error
    finally:
        sys.argv = arguments  # the translator puts its own there


def _planned(sas: str, sas_for_search: str, where: str) -> tuple[str, ...]:
    library = take_library()
    try:
        library.load_sas(sas.encode())
        library.load_sas_replan(sas_for_search.encode())
        if not library.replan(False):
            raise UnsolvableError(f"{where}: the planner found no plan; use another game")
        operators = (fast_downward.Operator * library.get_last_plan_length())()
        library.get_last_plan(operators)
        return tuple(operator.name for operator in operators)
    finally:
        give_library(library)


_libraries: list[Any] = []


def take_library() -> Any:
    """A copy of the planner's library that nobody else in this process uses: it holds the state of one game."""
    with ENGINE_LOCK:
        return _libraries.pop() if _libraries else fast_downward.load_lib()


def give_library(library: Any) -> None:
    """Keep a library for the next one who takes it: a copy that was loaded cannot be unloaded."""
    with ENGINE_LOCK:
        _libraries.append(library)
