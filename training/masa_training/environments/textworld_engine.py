"""One game at a time on TextWorld's PDDL engine, with nothing computed that an agent does not see.

TextWorld's own environment translates the game twice at every reset and derives the text of every admissible command at
every step. Here a game is translated once for all, and commands, which depend on things that never change, are
derived once a game. State, text and planner are TextWorld's.
"""

from __future__ import annotations

import contextlib
import functools
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any

import fast_downward
from textworld.envs.pddl import logic as pddl
from textworld.envs.pddl import textgen
from textworld.generator.game import EntityInfo
from textworld.logic import Placeholder, Proposition, Type, Variable

from masa_training.environments.protocol import Step
from masa_training.environments.textworld_compile import ENGINE_LOCK, Compiled, give_library, take_library

NOTHING = "Nothing happens."
_INVISIBLE = frozenset({"checked", "ison"})
"""Predicates that no text, precondition or goal of ALFWorld's domain reads."""

_TASK = re.compile(r'("task"\s*:\s*\[\s*\{\s*"rhs"\s*:\s*)"(?:[^"\\]|\\.)*"')
_QUERIED = re.compile(r"(\w+)\(")


@dataclass(frozen=True, slots=True)
class Answer:
    """What the engine says to a command.

    Attributes:
        text: the feedback.
        won: whether the goal holds.
        valid: whether the command was admissible.
        moved: whether it changed the world, apart from what nobody can see.
        commands: what is admissible now, sorted.
    """

    text: str
    won: bool
    valid: bool
    moved: bool
    commands: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Command:
    """An operator of the planner as text, and what its feedback is derived from."""

    text: str
    feedback: str
    mapping: Mapping[Any, Any]


@dataclass(frozen=True, slots=True)
class Game:
    """A game that can be played: made by `game`, shared by all episodes of a process."""

    compiled: Compiled
    logic: Any
    entities: Mapping[str, Any]
    commands: dict[str, _Command] = field(default_factory=dict)


def game(compiled: Compiled, grammar: str, name: Callable[[Mapping[str, Any]], None]) -> Game:
    """The game of a translation and a grammar; `name` sets the attribute `name` of TextWorld's entity infos by id."""
    with ENGINE_LOCK:
        memoize()
        logic = _logic(_TASK.sub(r'\1""', grammar))
        used = {argument for fact in compiled.init for argument in fact[1:]}
        entities = {its: EntityInfo(its, compiled.objects[its]) for its in sorted(used)}
        for info in entities.values():
            info.name, info.definite, info.indefinite = info.id, "the", "a"
        name(entities)
        return Game(compiled, logic, entities)


@functools.lru_cache(maxsize=8)
def _logic(grammar: str) -> Any:
    """Parsing a grammar takes a quarter of a second; those of ALFWorld's games differ in the task alone."""
    return pddl.GameLogic(domain="", grammar=grammar)


class Engine:
    """Plays games one after the other, with a copy of the planner of its own. Not for several threads at once."""

    def __init__(self) -> None:
        self._library: Any = None
        self._game: Game | None = None
        self._state: Any = None
        self._operators: dict[str, tuple[_Command, int, int]] = {}

    def start(self, game: Game) -> Answer:
        """Begin the game from its start, whatever went before."""
        with ENGINE_LOCK:
            if self._library is None:
                self._library = take_library()
            self._game = game
            self._state = _State(self._library, game.compiled, game.logic)
            text = self._derive("#look.feedback#", {})
            return self._answer(text, valid=True, moved=True)

    def act(self, command: str) -> Answer:
        """Take a command; one that is not admissible is answered by `NOTHING`."""
        with ENGINE_LOCK:
            found = self._operators.get(command.strip())
            if found is None:
                return self._answer(NOTHING, valid=False, moved=False)
            chosen, number, effects = found
            moved = self._state.take(number, effects)
            return self._answer(self._derive(chosen.feedback, chosen.mapping), valid=True, moved=moved)

    def plan(self, game: Game) -> tuple[str, ...]:
        """The plan of the game's translation as commands, empty where it has none."""
        with ENGINE_LOCK:
            self.start(game)
            return tuple(self._command(operator).text for operator in game.compiled.plan or ())

    def close(self) -> None:
        """Give the planner's library back. The engine can be started again."""
        if self._library is not None:
            give_library(self._library)
            self._library = self._state = self._game = None
            self._operators = {}

    def _answer(self, text: str, *, valid: bool, moved: bool) -> Answer:
        if valid:
            self._operators = self._admissible()
        return Answer(text, bool(self._library.check_goal()), valid, moved, tuple(sorted(self._operators)))

    def _admissible(self) -> dict[str, tuple[_Command, int, int]]:
        operators = (fast_downward.Operator * self._library.get_applicable_operators_count())()
        self._library.get_applicable_operators(operators)
        found: dict[str, tuple[_Command, int, int]] = {}
        for operator in operators:
            command = self._command(operator.name)
            found.setdefault(command.text, (command, operator.id, operator.nb_effect_atoms))
        return found

    def _command(self, operator: str) -> _Command:
        assert self._game is not None
        known = self._game.commands.get(operator)
        if known is None:
            action, *arguments = operator.split()
            parameters = self._game.compiled.parameters[action]
            mapping = {
                Placeholder(name, type_): Variable(argument, type_)
                for (name, type_), argument in zip(parameters, arguments, strict=False)
            }
            form = self._game.logic.actions[action]
            known = _Command(self._derive(form.template, mapping).strip(), form.feedback_rule, mapping)
            if self._game.compiled.fluents.isdisjoint(_QUERIED.findall(form.template)):
                self._game.commands[operator] = known
        return known

    def _derive(self, text: str, mapping: Mapping[Any, Any]) -> str:
        assert self._game is not None
        entities = self._game.entities
        context = {
            "state": self._state,
            "facts": (),
            "variables": {slot.name: entities[its.name] for slot, its in mapping.items()},
            "mapping": mapping,
            "entity_infos": entities,
        }
        derived: str = self._game.logic.grammar.derive(text, context)
        return derived


class _State(pddl.PddlState):  # type: ignore[misc]
    """TextWorld's state of a game, from a translation that was made before."""

    def __init__(self, library: Any, compiled: Compiled, logic: Any) -> None:
        """Does what the original does but translate; its base class has no `__init__` that could be called."""
        self._facts: defaultdict[Any, set[Any]] = defaultdict(set)
        self._vars_by_name: dict[str, Any] = {}
        self._vars_by_type: defaultdict[str, set[Any]] = defaultdict(set)
        self._var_counts: Counter[str] = Counter()
        self._logic = logic
        self.downward_lib = library
        self.name2type = compiled.objects
        for name, above in compiled.types:
            with contextlib.suppress(ValueError):  # known from another game of the same grammar
                logic.types.add(Type(name, above))
        library.load_sas(compiled.sas.encode())
        self.add_facts(
            Proposition(predicate, [Variable(its, compiled.objects[its]) for its in arguments])
            for predicate, *arguments in compiled.init
        )
        atoms = (pddl.Atom * library.get_state_size())()
        library.get_state(atoms)
        facts = [atom.get_fact(self.name2type) for atom in atoms]
        self.add_facts(fact for fact in facts if not fact.is_negation)

    def take(self, operator: int, effects: int) -> bool:
        """Apply an operator; whether that changed what can be seen."""
        atoms = (pddl.Atom * effects)()
        self.downward_lib.apply_operator(operator, atoms)
        moved = False
        for atom in atoms:
            fact = atom.get_fact(self.name2type)
            opposite = fact.negate()
            new = self.is_fact(opposite) if fact.is_negation else not self.is_fact(fact)
            predicate = (opposite if fact.is_negation else fact).name
            moved = moved or (new and predicate not in _INVISIBLE)
            self.remove_fact(opposite)
            self.add_fact(fact)
        return moved


_ENTRIES = 20_000


@functools.cache
def memoize() -> None:
    """Replace the functions; a second call does nothing."""
    textgen._parse_and_convert = _fresh(functools.lru_cache(maxsize=_ENTRIES)(textgen._parse_and_convert))
    textgen.Rule = _Queries(textgen.Rule)
    textgen.copy_context = _copy_context
    textgen.EvalSymbol.derive = _derive_value


def _fresh(parse: Callable[..., Any]) -> Callable[..., Any]:
    """Symbols are given a context when they are derived, so every caller gets its own."""

    def parsed(text: str, rule_name: str, trace: bool = False) -> Any:
        del trace  # prints what TatSu does; nothing else depends on it
        return deepcopy(parse(text, rule_name=rule_name))

    return parsed


class _Queries:
    """Stands for `textworld.logic.Rule` where only its queries are asked for. A parsed query never changes."""

    def __init__(self, rule: Any) -> None:
        self.parse_conjunctive_query = functools.lru_cache(maxsize=_ENTRIES)(rule.parse_conjunctive_query)


def _copy_context(context: dict[str, Any]) -> dict[str, Any]:
    """As the original, but variables and placeholders, which never change, are shared."""
    return {**context, "variables": dict(context["variables"]), "mapping": dict(context["mapping"])}


def _derive_value(symbol: Any, context: dict[str, Any] | None = None) -> list[Any]:
    """As the original, without its detour over `locals()`, which Python 3.13 no longer allows."""
    names = (context or symbol.context)["variables"]
    return [textgen.TerminalSymbol(eval(_code(symbol.expression), {}, names))]


@functools.lru_cache(maxsize=_ENTRIES)
def _code(expression: str) -> Any:
    return compile(expression.strip(), "<grammar>", "eval")


class GameEpisodes:
    """One episode at a time.

    An action counts as a change when it changed the world, or when it answered something that the agent had not read
    before in this episode. So `look` changes nothing where nothing is new, nor does examining what was just opened.
    """

    def __init__(self) -> None:
        self._engine = Engine()
        self._read: list[str] = []
        self._last: Step | None = None

    def begin(self, game: Game) -> Step:
        """Start the game; the observation is what the agent sees around it."""
        self._read = []
        return self._keep(self._engine.start(game))

    def act(self, action: str) -> Step:
        """Take an action; after the end nothing happens any more.

        Raises:
            RuntimeError: if no episode was begun.
        """
        if self._last is None:
            raise RuntimeError("step before reset")
        if self._last.done:
            return Step(NOTHING, 1.0, True, True, changed=False, valid=False, admissible=self._last.admissible)
        return self._keep(self._engine.act(action))

    def close(self) -> None:
        """Release the engine; another episode may still be begun."""
        self._engine.close()
        self._last = None

    def _keep(self, answer: Answer) -> Step:
        text = answer.text.strip()
        changed = answer.valid and (answer.moved or not any(text in earlier for earlier in self._read))
        if answer.valid:
            self._read.append(text)
        self._last = Step(
            observation=text,
            reward=float(answer.won),
            done=answer.won,
            success=answer.won,
            changed=changed,
            valid=answer.valid,
            admissible=answer.commands,
        )
        return self._last
