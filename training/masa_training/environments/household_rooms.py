"""What stands and lies in the rooms of generated households; what fits into what is ALFWorld's own table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from alfworld.gen import constants


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
