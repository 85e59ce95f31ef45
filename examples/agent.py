#!/usr/bin/env python3
"""An agent on a device that adapts its own skills with masa.

Its backbone is a llama.cpp model. The agent lends that model to masa's rewriter, so that nothing is loaded twice,
rewrites only the groups of skills that the task at hand needs, selects a few of them, and acts in a small kitchen:
at every step a grammar allows exactly the actions that are possible now, so the backbone can choose badly but
never speak nonsense.

    python examples/agent.py                              # 135M parameters put a plate on the table, in 11 steps
    masa pull qwen2.5-coder-1.5b
    python examples/agent.py --model qwen2.5-coder-1.5b   # a larger backbone; --task clean and warm are harder
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from masa import Rewriter, load_bank, load_facts, resolve_backbone, select
from masa.artifact import load_artifact
from masa.retrieval import render
from masa.skills import GENERAL
from masa.weights import list_weights, named_weights

HERE = Path(__file__).resolve().parent
REWRITER = "smollm2-135m"


# --- the environment: a kitchen with five places --------------------------------------------------------------


@dataclass
class Kitchen:
    """A toy, but a real one: it has a state, refuses what is impossible, and knows when the task is done."""

    goal: str
    wanted: str
    state: str
    destination: str
    at: str = "door"
    holding: str | None = None
    taken_from: str | None = None
    opened: set[str] = field(default_factory=set)
    states: dict[str, str] = field(default_factory=dict)
    places: dict[str, list[str]] = field(
        default_factory=lambda: {
            "cupboard": ["mug", "plate"],
            "fridge": ["soup"],
            "sink": [],
            "microwave": [],
            "table": ["spoon"],
        }
    )

    CLOSED = ("cupboard", "fridge")

    def visible(self) -> list[str]:
        """The objects that can be seen from here."""
        closed = self.at in self.CLOSED and self.at not in self.opened
        return [] if closed else self.places.get(self.at, [])

    def observation(self) -> str:
        carried = f"You hold the {self.named(self.holding)}." if self.holding else "Your hands are empty."
        if self.at == "door":
            return f"You stand at the door. {carried}"
        if self.at in self.CLOSED and self.at not in self.opened:
            return f"You stand at the {self.at}. It is closed. {carried}"
        there = ", ".join(self.named(thing) for thing in sorted(self.visible())) or "nothing"
        return f"You stand at the {self.at} and see: {there}. {carried}"

    def named(self, thing: str | None) -> str:
        return f"{self.states[thing]} {thing}" if thing in self.states else str(thing)

    def actions(self) -> list[str]:
        """What is possible now, in the forms of examples/facts/household.yaml. Nothing goes back where it was."""
        possible = [f"go to {place}" for place in self.places if place != self.at]
        if self.at in self.CLOSED and self.at not in self.opened:
            possible.append(f"open {self.at}")
        if self.holding is None:
            possible += [f"take {thing}" for thing in self.visible()]
        else:
            if self.at == "sink":
                possible.append(f"wash {self.holding} with sink")
            if self.at == "microwave":
                possible.append(f"heat {self.holding} with microwave")
            shut = self.at in self.CLOSED and self.at not in self.opened
            if self.at in self.places and not shut and self.at != self.taken_from:
                possible.append(f"put {self.holding} on {self.at}")
        return possible

    def act(self, action: str) -> None:
        if action not in self.actions():
            return  # nothing happens
        verb, _, rest = action.partition(" ")
        if verb == "go":
            self.at = rest.removeprefix("to ")
        elif verb == "open":
            self.opened.add(rest)
        elif verb == "take":
            self.places[self.at].remove(rest)
            self.holding, self.taken_from = rest, self.at
        elif verb == "put" and self.holding:
            self.places[self.at].append(self.holding)
            self.holding = None
        elif self.holding:
            self.states[self.holding] = "clean" if verb == "wash" else "hot"

    @property
    def done(self) -> bool:
        right = not self.state or self.states.get(self.wanted) == self.state
        return right and self.wanted in self.places[self.destination]


TASKS = {
    "fetch": ("put the plate on the table", "plate", "", "table"),
    "clean": ("put a clean mug on the table", "mug", "clean", "table"),
    "warm": ("put hot soup on the table", "soup", "hot", "table"),
}


# --- the agent ------------------------------------------------------------------------------------------------


class Agent:
    """A backbone that reads skills and chooses one of the possible actions."""

    def __init__(self, llama: Any, skills: str, goal: str) -> None:
        self.llama = llama
        # One prompt that only grows: llama.cpp then computes the skills once and each step's news alone.
        self.system = f"You control a household robot.\n\n{skills}\nTask: {goal}."
        self.history = ""
        self.tried: set[tuple[str, str]] = set()

    def choose(self, observation: str, actions: Sequence[str]) -> str:
        from llama_cpp import LlamaGrammar

        # A small model repeats itself: what it did in the same situation before is not offered again.
        actions = [action for action in actions if (observation, action) not in self.tried] or actions
        self.history += f"\nYou see: {observation}\nPossible: {', '.join(actions)}\nAction:"
        choices = " | ".join(json.dumps(f" {action}") for action in actions)
        # ChatML, which SmolLM2, Qwen and many others read; a backbone of another family wants its own template.
        answer = self.llama.create_completion(
            f"<|im_start|>system\n{self.system}<|im_end|>\n<|im_start|>assistant{self.history}",
            grammar=LlamaGrammar.from_string(f"root ::= {choices}", verbose=False),
            max_tokens=24,
            temperature=0.0,
        )
        text: str = answer["choices"][0]["text"]
        self.history += text
        self.tried.add((observation, text.strip()))
        return text.strip()


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", choices=TASKS, default="fetch")
    parser.add_argument("--model", help="GGUF file or name of the backbone (default: the rewriter's own base)")
    parser.add_argument("--bank", type=Path, default=HERE / "banks" / "household.json")
    parser.add_argument("--steps", type=int, default=12, help="most actions")
    given = parser.parse_args(arguments)
    from llama_cpp import Llama

    # The backbone: by default the very weights that the rewriter is made of.
    base = load_artifact(REWRITER).weights_path
    named = given.model in list_weights()
    model = named_weights(given.model).path if named else Path(given.model or base)
    print(f"Backbone: {model.name}")
    llama = Llama(str(model), n_ctx=4096, verbose=False)

    kitchen = Kitchen(*TASKS[given.task])
    bank = load_bank(given.bank)
    card = resolve_backbone(model)
    facts = load_facts(HERE / "facts" / "household.yaml")

    # Adapt the skills: lazily, and with the model that is loaded already if it is the rewriter's.
    with Rewriter.load(REWRITER, llama=llama if model == base else None) as rewriter:
        lazy = rewriter.lazy(bank, card, environment="household robot", task=kitchen.goal, facts=facts)
        adapted = lazy.bank(GENERAL, given.task)
        for key, account in lazy.results(GENERAL, given.task).items():
            words = ", ".join(f"{fate.skill_id} {fate.status}" for fate in account.fates)
            print(f"Skills {key}: {account.status}{f' ({account.reason})' if account.reason else ''}: {words}")

    chosen = select(adapted, kitchen.goal, task_type=given.task, method="bm25", general=3, specific=3)
    print(f"Selected: {', '.join(skill.title for skill in (*chosen.general, *chosen.specific))}\n")

    print(f"Task: {kitchen.goal}")
    agent = Agent(llama, render(chosen), kitchen.goal)
    for step in range(1, given.steps + 1):
        action = agent.choose(kitchen.observation(), kitchen.actions())
        kitchen.act(action)
        print(f"{step}. {action:<28} → {kitchen.observation()}")
        if kitchen.done:
            break
    print(
        "Done."
        if kitchen.done
        else f"Not done after {given.steps} steps; try more --steps, or a larger backbone with --model."
    )
    llama.close()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
