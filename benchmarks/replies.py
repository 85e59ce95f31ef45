#!/usr/bin/env python3
"""Written replies: this build against another checkout and against a server, on the same requests.

python benchmarks/replies.py [--backbone NAME] [--bank NAME] [--tasks N] [--slots N ...] [--before FOLDER]
                             [--server URL#MODEL]

Episodes of `assistant` are played once and their requests kept. Every side then answers these requests, so many
episodes side by side as it has slots: each in a process of its own, from loading to the last reply, the time of loading
left out. The turns of an episode follow one another. Told are episodes a second, the ratio, and how many replies are
letter by letter those of this build.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import deque
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from machine import facts, print_facts

HERE = Path(__file__).resolve()


def record(chosen: argparse.Namespace) -> list[list[dict[str, Any]]]:
    """The requests of episodes, by episode."""
    from masa.formats import load_bank
    from masa_training.agents import AgentConfig
    from masa_training.environments import open_environment
    from masa_training.evaluate.banks.config import choose_tasks
    from masa_training.instruments.config import BANKS
    from masa_training.models import open_model
    from masa_training.rollouts import Arm, Job, WorkerSpec, opened

    model = open_model(chosen.backbone, slots=max(chosen.slots), **made(chosen.model_option))
    episodes: dict[str, list[dict[str, Any]]] = {}

    class Kept:
        """The model, without a stream of its own, and what it was asked."""

        name, concurrency, usage = model.name, model.concurrency, model.usage

        def reply(self, requests: Any) -> Any:
            for request in requests:
                episodes.setdefault(request.messages[1].content, []).append(asdict(request))
            return model.reply(requests)

        def close(self) -> None:
            model.close()

    bank = load_bank(BANKS / "assistant" / f"{chosen.bank}.json")
    agent = AgentConfig(constrain=True, give_up=2, max_tokens=80)
    spec = WorkerSpec(environment="assistant", split="val", model="", arms={"a": Arm(name="a", bank=bank)}, agent=agent)
    world = open_environment("assistant")
    tasks = sorted(choose_tasks(world.tasks("val"), chosen.tasks), key=lambda task: task.type)
    with opened(spec, Kept()) as player:
        list(player.play([Job("a", task.id, 0) for task in tasks]))
    model.close()
    return list(episodes.values())


def answer(spec: str, options: dict[str, Any], episodes: list[list[dict[str, Any]]], slots: int) -> dict[str, Any]:
    """One side: seconds and texts. The masa that is imported is the side's own."""
    from masa_training import models
    from masa_training.models import Message, Request, open_model

    server = spec.startswith(("openai:", "http"))
    model = open_model(spec, **({"concurrency": slots} if server else {"slots": slots}), **options)
    known = {f.name for f in fields(Message)}

    def asked(told: dict[str, Any]) -> Request:
        messages = tuple(Message(**{k: v for k, v in m.items() if k in known}) for m in told["messages"])
        return Request(**{**told, "messages": messages, "stop": tuple(told["stop"]), "tools": tuple(told["tools"])})

    waiting = deque(enumerate(episodes))
    going: dict[int, int] = {}
    texts: dict[int, list[str]] = {i: [] for i in range(len(episodes))}
    make = getattr(models, "stream_of", None)
    stream = make(model) if make else None
    began = time.perf_counter()
    pending: list[int] = []
    while waiting or going:
        while waiting and len(going) < slots:
            number, _ = waiting.popleft()
            going[number] = 0
            pending.append(number)
        if stream:
            for number in pending:
                stream.put(number, asked(episodes[number][going[number]]))
            done = stream.ready()
        else:
            order = list(going)
            done = list(zip(order, model.reply([asked(episodes[n][going[n]]) for n in order]), strict=True))
        pending = []
        for number, reply in done:
            texts[number].append(getattr(reply, "text", f"error: {reply}"))
            going[number] += 1
            if going[number] == len(episodes[number]):
                del going[number]
            else:
                pending.append(number)
    seconds = time.perf_counter() - began
    model.close()
    memory = 0
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            memory = int(line.split()[1]) * 1024
    return {"seconds": seconds, "texts": [texts[i] for i in range(len(episodes))], "memory": memory}


def side(folder: Path, spec: str, options: dict[str, Any], kept: Path, slots: int) -> dict[str, Any]:
    """`answer` in a process that imports masa from a checkout."""
    paths = os.pathsep.join(str(folder / name) for name in ("runtime", "training", "export"))
    command = [sys.executable, str(HERE), "--side", spec, "--kept", str(kept), "--options", json.dumps(options)]
    environment = {**os.environ, "PYTHONPATH": paths}
    run = subprocess.run(
        [*command, "--slots", str(slots)], env=environment, capture_output=True, text=True, check=False
    )
    if run.returncode:
        raise SystemExit(f"{spec} with {folder}: {run.stderr.strip()[-500:]}")
    found: dict[str, Any] = json.loads(run.stdout.splitlines()[-1])
    return found


def made(given: list[str]) -> dict[str, Any]:
    pairs = (option.partition("=") for option in given)
    return {key: int(value) if value.isdigit() else value for key, _, value in pairs}


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="qwen2.5-coder-0.5b")
    parser.add_argument("--bank", default="moderate")
    parser.add_argument("--tasks", type=int, default=24)
    parser.add_argument("--slots", type=int, nargs="+", default=[8], help="several show how speed grows with them")
    parser.add_argument("--model-option", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--before", type=Path, help="a checkout of masa to compare with")
    parser.add_argument("--server", help="URL#MODEL that runs the same weights with as many slots")
    parser.add_argument("-o", "--output", type=Path)
    parser.add_argument("--side", help=argparse.SUPPRESS)
    parser.add_argument("--kept", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--options", default="{}", help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    chosen = options()
    if chosen.side:
        kept = json.loads(chosen.kept.read_text("utf-8"))
        print(json.dumps(answer(chosen.side, json.loads(chosen.options), kept, chosen.slots[0])))
        return
    given, rows = made(chosen.model_option), []
    with tempfile.TemporaryDirectory() as folder:
        kept = Path(folder) / "requests.json"
        episodes = record(chosen)
        kept.write_text(json.dumps(episodes), "utf-8")
        here = HERE.parents[1]
        sides = [(f"this build, {n} slots", here, chosen.backbone, given, n) for n in chosen.slots]
        if chosen.before:
            sides.append(("the other checkout", chosen.before.resolve(), chosen.backbone, given, max(chosen.slots)))
        if chosen.server:
            sides.append(("server", here, f"openai:{chosen.server}", {}, max(chosen.slots)))
        mine: dict[str, Any] = {}
        for name, where, spec, its, slots in sides:
            found = side(where, spec, its, kept, slots)
            mine = found if slots == max(chosen.slots) and where == here and spec == chosen.backbone else mine or found
            pairs = [
                (a, b) for x, y in zip(found["texts"], mine["texts"], strict=True) for a, b in zip(x, y, strict=True)
            ]
            row = {
                "side": name,
                "episodes_a_second": len(episodes) / found["seconds"],
                "replies": len(pairs),
                "same": sum(a == b for a, b in pairs),
                "memory": found["memory"],
                "seconds": found["seconds"],
            }
            rows.append(row)
            print(
                f"{name}: {row['episodes_a_second']:.3f} episodes a second, {row['same']} of {row['replies']} replies "
                f"the same, {found['memory'] / 1e6:.0f} MB",
                flush=True,
            )
    best = max(row["episodes_a_second"] for row in rows if row["side"].startswith("this"))
    for row in rows:
        if not row["side"].startswith("this"):
            print(f"this build / {row['side']}: {best / row['episodes_a_second']:.2f}")
    machine = facts()
    print_facts(machine)
    if chosen.output:
        chosen.output.write_text(json.dumps({"machine": machine, "rows": rows}, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
