"""A real HTTP server that plays the teacher's model, and what the teacher is asked in tests."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from masa.skills import Group, Skill
from masa_training.environments import Task
from masa_training.models.limits import Retries
from masa_training.models.openai import ServerModel, ServerOptions
from masa_training.rollouts import Episode, Job, Turn
from masa_training.teacher import Asked, LLMTeacher, Seen, TeacherConfig
from tests.training.test_models_openai import MODELS, Answer, Server, completion

QUICK = Retries(attempts=2, first=0.01, longest=0.02)

GROUP = Group(
    "heat",
    (
        Skill("het_001", "Find it first", "Go to the places where the object may be and look there.", "At the start."),
        Skill("het_002", "Heat it", "Carry the object to the microwave and heat it there.", "When you hold it."),
    ),
)
BETTER = """\
## [1] Find it first
When: At the start.
1. Go to a place where the object may be.
2. Look there and take it.

## [2] Heat it
When: When you hold it.
Carry the object to the microwave, then heat it."""
LOOPED = json.dumps(
    {
        "failures": [{"episode": 1, "step": 3, "kind": "loop", "cause": "It looked again and again.", "skill": 1}],
        "advice": "Say where to go next.",
    }
)


def seen(*actions: str, success: bool = False, task: str = "t") -> Seen:
    turns = tuple(Turn(action, "Nothing happens.", False, True) for action in actions)
    episode = Episode(
        job=Job("a", task, 0),
        task_type="heat",
        outcome="finished",
        success=success,
        steps=len(turns),
        unchanged=len(turns),
        turns=turns,
    )
    return Seen(Task(task, "heat", "put a hot mug in cabinet", "train"), episode)


def asked(**changes: Any) -> Asked:
    values: dict[str, Any] = {
        "group": GROUP,
        "original": GROUP,
        "environment": "household",
        "card": {"family": "Reader", "num_layers": 3},
        "seen": (seen("look", "look", "look"), seen("go", success=True, task="u")),
        "words": 90,
    }
    return Asked(**{**values, **changes})


def both(attribution: str = LOOPED, rewrite: str = BETTER) -> Callable[[dict[str, Any]], Answer]:
    """A server that answers the two questions with these texts."""
    return lambda body: completion(attribution if is_attribution(body) else rewrite)


def is_attribution(body: dict[str, Any]) -> bool:
    return str(body["messages"][0]["content"]).startswith("You find out why")


def is_summary(body: dict[str, Any]) -> bool:
    return str(body["messages"][0]["content"]).startswith("You describe")


@contextmanager
def taught(
    answers: Sequence[Answer] | Callable[[dict[str, Any]], Answer], *, timeout: float = 20, **settings: Any
) -> Iterator[tuple[Server, LLMTeacher]]:
    """A teacher behind a server with these answers."""
    server = Server(answers, MODELS)
    model = ServerModel(server.url, "m", ServerOptions(retries=QUICK, timeout=timeout))
    teacher = LLMTeacher(model, TeacherConfig(model=f"openai:{server.url}#m", **settings))
    try:
        yield server, teacher
    finally:
        teacher.close()
        server.close()


def stepwise(body: dict[str, Any]) -> Answer:
    """A good teacher's model: it names every failed episode it is shown, then numbers every skill of the group."""
    prompt = str(body["messages"][:2][-1]["content"])
    if is_summary(body):
        return completion("answers before it has read the fact; searches for words that no passage has")
    if is_attribution(body):
        numbers = [int(number) for number in re.findall(r"^Failed episode (\d+)", prompt, re.MULTILINE)]
        failures = [{"episode": n, "step": 1, "kind": "premature-stop", "cause": "It guessed."} for n in numbers]
        return completion(json.dumps({"failures": failures, "advice": "Write steps."}))
    if str(body["messages"][0]["content"]).startswith("You rewrite"):
        group = prompt.rpartition("The group at hand")[2].partition("\n\n")[2]
        blocks = re.split(r"\n\n(?=## )", group)
        return completion("\n\n".join(_steps(block, prompt.count("Refused (")) for block in blocks))
    return completion("ok")


def _steps(block: str, refused: int) -> str:
    heading, when, *text = block.split("\n")
    if text[0].startswith("1. "):
        return "\n".join([heading, when, *text, f"{len(text) + 1}. Check {refused + 1} times."])
    return "\n".join([heading, when, f"1. {' '.join(text)}", "2. Then go on."])
