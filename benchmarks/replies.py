#!/usr/bin/env python3
"""Written replies: this build against another checkout and against a server, on the same requests.

python benchmarks/replies.py [--environment NAME] [--backbone NAME] [--bank NAME] [--tasks N] [--slots N ...]
                             [--before FOLDER] [--server URL#MODEL] [--kept FILE]

Episodes are played once and their requests kept. Every side then answers these requests, so many episodes side by side
as it has slots, in a process of its own; loading is left out of the time, everything else is in it. The turns of an
episode follow one another. Told are episodes a second, of wall time and of computing time, the ratio, and how many
replies take the action that this build takes. Where the environment has tools, this build and the server are held to
calls of them; a checkout that knows no tools is told them in the system message, and writes freely.
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

    bank = load_bank(BANKS / chosen.environment / f"{chosen.bank}.json")
    world = open_environment(chosen.environment)
    tools = bool(getattr(world, "tools", tuple)())
    agent = AgentConfig(constrain=tools, give_up=2, max_tokens=chosen.max_tokens)
    arms = {"a": Arm(name="a", bank=bank)}
    spec = WorkerSpec(environment=chosen.environment, split="val", model="", arms=arms, agent=agent)
    tasks = [task for task in world.tasks("val") if not chosen.type or task.type in chosen.type]
    tasks = sorted(choose_tasks(tasks, chosen.tasks), key=lambda task: task.type)
    with opened(spec, Kept()) as player:
        list(player.play([Job("a", task.id, 0) for task in tasks]))
    model.close()
    return list(episodes.values())


def computed(pid: int | None) -> float:
    """Seconds of computing so far: of this process, or of a server's."""
    if pid is None:
        return time.process_time()
    user, system = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


def answer(
    spec: str, options: dict[str, Any], episodes: list[list[dict[str, Any]]], slots: int, pid: int | None
) -> dict[str, Any]:
    """One side: seconds and texts. The masa that is imported is the side's own."""
    from masa_training import models
    from masa_training.models import Message, Request, open_model

    server = spec.startswith(("openai:", "http"))
    model = open_model(spec, **({"concurrency": slots} if server else {"slots": slots}), **options)
    known, of_request = {f.name for f in fields(Message)}, {f.name for f in fields(Request)}

    def asked(told: dict[str, Any]) -> Request:
        given = [dict(m) for m in told["messages"]]
        if "tools" not in of_request and told["tools"]:
            tools = "\n".join(json.dumps(tool["function"]) for tool in told["tools"])
            given[0]["content"] += f'\n\nTools:\n{tools}\n\nCall one as JSON: {{"name": <tool>, "arguments": {{…}}}}'
            for message in given:
                message["role"] = "user" if message["role"] == "tool" else message["role"]
        messages = tuple(Message(**{k: v for k, v in m.items() if k in known}) for m in given)
        values = {**told, "messages": messages, "stop": tuple(told["stop"]), "tools": tuple(told["tools"])}
        return Request(**{k: v for k, v in values.items() if k in of_request})

    waiting = deque(enumerate(episodes))
    going: dict[int, int] = {}
    texts: dict[int, list[str]] = {i: [] for i in range(len(episodes))}
    make = getattr(models, "stream_of", None)
    stream = make(model) if make else None
    began, before = time.perf_counter(), computed(pid)
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
    seconds, cpu = time.perf_counter() - began, computed(pid) - before
    model.close()
    memory = 0
    for line in Path(f"/proc/{pid or 'self'}/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            memory = int(line.split()[1]) * 1024
    return {"seconds": seconds, "cpu": cpu, "texts": [texts[i] for i in range(len(episodes))], "memory": memory}


def action(text: str) -> str:
    """What a reply does: the call of a tool or the command that it holds."""
    from masa_training.agents import parse_action, parse_call
    from masa_training.environments.tool_calls import read_call

    return parse_call(text)[0] if read_call(text) else parse_action(text)


def side(
    folder: Path, spec: str, options: dict[str, Any], kept: Path, slots: int, tasks: int, pid: int | None
) -> dict[str, Any]:
    """`answer` in a process that imports masa from a checkout."""
    paths = os.pathsep.join(str(folder / name) for name in ("runtime", "training", "export"))
    command = [sys.executable, str(HERE), "--side", spec, "--kept", str(kept), "--options", json.dumps(options)]
    environment = {**os.environ, "PYTHONPATH": paths}
    command += ["--slots", str(slots), "--tasks", str(tasks), *(["--server-pid", str(pid)] if pid else [])]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if run.returncode:
        raise SystemExit(f"{spec} with {folder}: {run.stderr.strip()[-500:]}")
    found: dict[str, Any] = json.loads(run.stdout.splitlines()[-1])
    return found


def made(given: list[str]) -> dict[str, Any]:
    pairs = (option.partition("=") for option in given)
    return {key: int(value) if value.isdigit() else value for key, _, value in pairs}


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--environment", default="assistant")
    parser.add_argument("--backbone", default="qwen2.5-coder-0.5b")
    parser.add_argument("--max-tokens", type=int, default=80)
    parser.add_argument("--bank", default="moderate")
    parser.add_argument("--tasks", type=int, default=24)
    parser.add_argument("--type", action="append", help="repeatable; a study plays 17 tasks of each of six types")
    parser.add_argument("--slots", type=int, nargs="+", default=[8], help="several show how speed grows with them")
    parser.add_argument("--model-option", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--before", type=Path, help="a checkout of masa to compare with")
    parser.add_argument("--before-backbone", help="the same weights as that checkout calls them")
    parser.add_argument("--server", help="URL#MODEL that runs the same weights with as many slots")
    parser.add_argument("--server-pid", type=int, help="its process on this machine, for its computing time and memory")
    parser.add_argument("-o", "--output", type=Path)
    parser.add_argument("--side", help=argparse.SUPPRESS)
    parser.add_argument("--kept", type=Path, help="the requests; played and written there if it does not exist")
    parser.add_argument("--options", default="{}", help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    chosen = options()
    if chosen.side:
        kept = json.loads(chosen.kept.read_text("utf-8"))[: chosen.tasks]
        print(json.dumps(answer(chosen.side, json.loads(chosen.options), kept, chosen.slots[0], chosen.server_pid)))
        return
    given, rows = made(chosen.model_option), []
    with tempfile.TemporaryDirectory() as folder:
        kept = chosen.kept or Path(folder) / "requests.json"
        if not kept.exists():
            kept.write_text(json.dumps(record(chosen)), "utf-8")
        episodes = json.loads(kept.read_text("utf-8"))[: chosen.tasks]
        here = HERE.parents[1]
        sides = [(f"this build, {n} slots", here, chosen.backbone, given, n) for n in chosen.slots]
        if chosen.before:
            sides.append(
                (
                    "the other checkout",
                    chosen.before.resolve(),
                    chosen.before_backbone or chosen.backbone,
                    given,
                    max(chosen.slots),
                )
            )
        if chosen.server:
            sides.append(("server", here, f"openai:{chosen.server}", {}, max(chosen.slots)))
        mine: dict[str, Any] = {}
        for name, where, spec, its, slots in sides:
            pid = chosen.server_pid if name == "server" else None
            found = side(where, spec, its, kept, slots, len(episodes), pid)
            mine = mine or found
            pairs = [
                (a, b) for x, y in zip(found["texts"], mine["texts"], strict=True) for a, b in zip(x, y, strict=True)
            ]
            row = {
                "side": name,
                "episodes_a_second": len(episodes) / found["seconds"],
                "episodes_a_cpu_second": len(episodes) / found["cpu"],
                "replies": len(pairs),
                "same": sum(action(a) == action(b) for a, b in pairs),
                "memory": found["memory"],
                "seconds": found["seconds"],
            }
            rows.append(row)
            print(
                f"{name}: {row['episodes_a_second']:.3f} episodes a second, {row['episodes_a_cpu_second']:.3f} a "
                f"second of computing, {row['same']} of {row['replies']} actions "
                f"the same, {found['memory'] / 1e6:.0f} MB",
                flush=True,
            )
    for row in rows[len(chosen.slots) :]:
        kinds = ("episodes_a_second", "episodes_a_cpu_second")
        wall, cpu = (max(mine[kind] for mine in rows[: len(chosen.slots)]) / row[kind] for kind in kinds)
        print(f"this build / {row['side']}: {wall:.2f} by wall time, {cpu:.2f} by computing time")
    machine = facts()
    print_facts(machine)
    if chosen.output:
        chosen.output.write_text(json.dumps({"machine": machine, "rows": rows}, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
