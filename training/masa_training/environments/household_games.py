"""Generated households: small games in ALFWorld's domain, solvable by construction, the same on every machine."""

from __future__ import annotations

import hashlib
import random
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from alfworld.gen import constants
from alfworld.gen.goal_library import gdict

from masa_training.environments.alfworld_interface import TASK_TYPES
from masa_training.environments.protocol import Split


@dataclass(frozen=True, slots=True)
class Room:
    """A kind of room: the types of receptacles and of objects that it may have."""

    receptacles: tuple[str, ...]
    objects: tuple[str, ...]


def _room(receptacles: str, objects: str) -> Room:
    return Room(tuple(receptacles.split()), tuple(objects.split()))


ROOMS: Mapping[str, Room] = {
    "kitchen": _room(
        "Cabinet CoffeeMachine CounterTop DiningTable Drawer Fridge GarbageCan Microwave Shelf SinkBasin StoveBurner",
        "Apple Bowl Bread ButterKnife Cup DishSponge Egg Fork Kettle Knife Ladle Lettuce Mug Pan PepperShaker Plate "
        "Pot Potato SaltShaker SoapBottle Spatula Spoon Tomato WineBottle",
    ),
    "bathroom": _room(
        "BathtubBasin Cabinet Cart CounterTop Drawer GarbageCan Shelf SinkBasin Toilet ToiletPaperHanger",
        "Candle Cloth DishSponge HandTowel SoapBar SoapBottle SprayBottle TissueBox ToiletPaper",
    ),
    "bedroom": _room(
        "ArmChair Bed Cabinet Desk Drawer Dresser GarbageCan Safe Shelf SideTable",
        "AlarmClock BaseballBat BasketBall Book Bowl CD CellPhone CreditCard KeyChain Laptop Mug Newspaper Pen Pencil "
        "Pillow TennisRacket Watch",
    ),
    "living room": _room(
        "ArmChair Cabinet CoffeeTable DiningTable Drawer Dresser GarbageCan Ottoman Safe Shelf SideTable Sofa",
        "Book Candle CreditCard KeyChain Laptop Newspaper Pillow RemoteControl Statue TissueBox Vase Watch WateringCan",
    ),
}
SEVERAL = frozenset({"Cabinet", "CounterTop", "Drawer", "Shelf", "SideTable", "StoveBurner"})
"""Types of receptacles of which a room may have more than one."""
LAMP = "DeskLamp"
LAMP_PLACES = ("Desk", "SideTable", "Dresser", "CoffeeTable")
OPENABLE = frozenset(constants.OPENABLE_CLASS_LIST)
HEATABLE = frozenset(constants.VAL_ACTION_OBJECTS["Heatable"])
COOLABLE = frozenset(constants.VAL_ACTION_OBJECTS["Coolable"])
CLEANABLE = frozenset(constants.VAL_ACTION_OBJECTS["Cleanable"])


def holds(receptacle: str, thing: str) -> bool:
    """Whether an object of this type may be put into a receptacle of that type."""
    return thing in constants.VAL_RECEPTACLE_OBJECTS.get(receptacle, ())


FEWEST, MOST = 2, 8
"""Receptacles of a household."""

# Raise it with any change of what is drawn: the ids of tasks name their content.
_VERSION = 1
_ATTEMPTS = 1000
_ALFWORLD_TYPES = {ours: theirs for theirs, ours in TASK_TYPES.items()}
_TRAIN, _VAL = 50, 75


@dataclass(frozen=True, slots=True)
class _Kind:
    """A task type: where it is done, what the room must have, and which objects it can be done with."""

    rooms: tuple[str, ...]
    needs: tuple[str, ...] = ()
    things: frozenset[str] | None = None


_KINDS: Mapping[str, _Kind] = {
    "pick_and_place": _Kind(tuple(ROOMS)),
    "look_at_obj_in_light": _Kind(("bedroom", "living room"), LAMP_PLACES),
    "clean": _Kind(("kitchen", "bathroom"), ("SinkBasin",), CLEANABLE),
    "heat": _Kind(("kitchen",), ("Microwave",), HEATABLE),
    "cool": _Kind(("kitchen",), ("Fridge",), COOLABLE),
    "pick_two_obj_and_place": _Kind(tuple(ROOMS)),
}


@dataclass(frozen=True, slots=True)
class Home:
    """One household.

    Attributes:
        type: the task type.
        thing: the type of object that the goal is about.
        target: the type of receptacle that it must get to; empty for look_at_obj_in_light.
        wording: which of ALFWorld's templates words the goal.
        receptacles: type and the types of objects in it, for each.
    """

    type: str
    thing: str
    target: str
    wording: int
    receptacles: tuple[tuple[str, tuple[str, ...]], ...]

    @property
    def goal(self) -> str:
        """What the agent is told, in ALFWorld's words."""
        templates = gdict[_ALFWORLD_TYPES[self.type]]["templates"]
        words = {"obj": self.thing.lower(), "recep": self.target.lower(), "toggle": LAMP.lower()}
        return f"{templates[self.wording % len(templates)].format(**words)}."

    @property
    def split(self) -> Split:
        """By content, so that the same household is never in two splits: half train, a quarter each val and test."""
        content = repr((self.type, self.thing, self.target, sorted(self.receptacles)))
        share = int.from_bytes(hashlib.sha256(content.encode()).digest()[:8], "big") % 100
        return "train" if share < _TRAIN else "val" if share < _VAL else "test"


def generate(type_: str, receptacles: int, objects: int, number: int) -> Home:
    """The household of that number: `receptacles` receptacles, `objects` objects beside those of the goal.

    Whatever the goal is about lies elsewhere than in a receptacle of the target's type, and is the only one of its
    type (one of two for pick_two_obj_and_place); so the goal never holds at the start and can always be reached.
    """
    rng = random.Random(f"household {_VERSION} {type_} {receptacles} {objects} {number}")
    for _ in range(_ATTEMPTS):
        found = _drawn(type_, receptacles, objects, rng)
        if found is not None:
            return found
    raise AssertionError(f"no household of type {type_} with {receptacles} receptacles in {_ATTEMPTS} attempts")


def _drawn(type_: str, size: int, objects: int, rng: random.Random) -> Home | None:
    kind = _KINDS[type_]
    room = ROOMS[rng.choice(kind.rooms)]
    needed = rng.choice([its for its in kind.needs if its in room.receptacles]) if kind.needs else ""
    thing = rng.choice([its for its in room.objects if kind.things is None or its in kind.things])
    target = ""
    if type_ != "look_at_obj_in_light":
        targets = [its for its in room.receptacles if holds(its, thing) and its != needed]
        if not targets:
            return None
        target = rng.choice(targets)
    types = _receptacles(room, [its for its in (needed, target) if its], size, rng)
    sources = [place for place, its in enumerate(types) if its != target and holds(its, thing)]
    if not sources:
        return None
    contents: list[list[str]] = [[] for _ in types]
    for _ in range(2 if type_ == "pick_two_obj_and_place" else 1):
        contents[rng.choice(sources)].append(thing)
    if type_ == "look_at_obj_in_light":
        contents[types.index(needed)].append(LAMP)
    others = [its for its in room.objects if its != thing]
    for _ in range(objects):
        other = rng.choice(others)
        places = [place for place, its in enumerate(types) if holds(its, other)]
        if places:
            contents[rng.choice(places)].append(other)
    filled = tuple((its, tuple(sorted(there))) for its, there in zip(types, contents, strict=True))
    return Home(type_, thing, target, rng.randrange(2), filled)


def _receptacles(room: Room, types: list[str], size: int, rng: random.Random) -> list[str]:
    while len(types) < size:
        types.append(rng.choice([its for its in room.receptacles if its in SEVERAL or its not in types]))
    rng.shuffle(types)
    return types


def problem(home: Home) -> str:
    """The household in PDDL, for ALFWorld's domain. The agent starts in the middle of the room; all is closed."""
    objects = ["agent1 - agent", "loc_bar_0 - location"]
    facts = ["(atLocation agent1 loc_bar_0)"]
    things: Counter[str] = Counter()
    for place, (type_, contents) in enumerate(home.receptacles, 1):
        # Basins are named after the sink or tub that they are in.
        outer, basin, _ = type_.partition("Basin")
        receptacle = f"{outer}_bar_{place}" + (f"_bar_{type_}" if basin else "")
        objects += [f"{receptacle} - receptacle", f"loc_bar_{place} - location"]
        facts += [f"(receptacleType {receptacle} {type_}Type)", f"(receptacleAtLocation {receptacle} loc_bar_{place})"]
        facts += [f"(openable {receptacle})"] * (type_ in OPENABLE)
        for thing in contents:
            things[thing] += 1
            name = f"{thing}_bar_{things[thing]}"
            objects.append(f"{name} - object")
            facts += [f"(objectType {name} {thing}Type)", f"(inReceptacle {name} {receptacle})"]
            facts += [f"(objectAtLocation {name} loc_bar_{place})"]
            facts += [f"({predicate} {name})" for predicate in _predicates(thing)]
    places = {type_ for type_, _ in home.receptacles}
    facts += [
        f"(canContain {place}Type {thing}Type)"
        for place in sorted(places)
        for thing in sorted(things)
        if holds(place, thing)
    ]
    # Types that the domain's actions name must be there, even where nothing is of that type.
    objects += [f"{its}Type - rtype" for its in sorted(places | {"Fridge", "Microwave", "SinkBasin"})]
    objects += [f"{its}Type - otype" for its in sorted({*things, LAMP, "ButterKnife", "Knife"})]
    newline = "\n"
    return (
        f"(define (problem household)\n(:domain alfred)\n(:objects\n{newline.join(objects)}\n)\n"
        f"(:init\n{newline.join(facts)}\n)\n{_goal(home)}"
    )


def _predicates(thing: str) -> list[str]:
    if thing == LAMP:
        return ["toggleable"]
    able = {"cleanable": CLEANABLE, "coolable": COOLABLE, "heatable": HEATABLE}
    return ["pickupable", *(predicate for predicate, those in able.items() if thing in those)]


def _goal(home: Home) -> str:
    """ALFWorld's goal, with the parenthesis that ends the problem; `#` stands for the dash that types come after."""
    pddl: str = gdict[_ALFWORLD_TYPES[home.type]]["pddl"]
    return pddl.format(obj=home.thing, recep=home.target, toggle=LAMP).replace("#", "-")
