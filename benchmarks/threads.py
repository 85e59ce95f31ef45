"""Many rewrites at once: requests from several threads on one rewriter, some of them bad, and the memory they leave.

    python benchmarks/threads.py                                      1,000 requests on a tiny model with random weights
    python benchmarks/threads.py --artifact smollm2-135m --requests 48 --distinct 8   fewer, on the shipped rewriter

A request is everything that an agent would do: read a bank and a card, rewrite, write the bank. Every good answer must
equal the one that a single thread got before, and every bad request must end in a MasaError. Nothing is cached. Memory
is the process's own (private) memory after every quarter; it may grow by `--bound` between the first and the last.
Exit code 0: all that holds.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import queue
import random
import sys
import tempfile
import threading
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import machine

from masa.artifact import load_artifact
from masa.cards import loads_card
from masa.codec import template_to_json
from masa.errors import MasaError
from masa.formats.bank_json import dump_bank, loads_bank
from masa.rewriter import Rewriter

CARDS = (
    "family: Qwen3\nvariant: 4B\nparameter_count: 4B\nweaknesses: loops on long instructions\n",
    "family: Llama 3.2\nvariant: 1B\nparameter_count: 1B\nstrengths: follows numbered steps\n",
    "family: unknown\n",
)
SENTENCES = (
    "Search every place once before you go back.",
    "If the door is locked, ask for the key; otherwise open it.",
    "Take the cup to the sink and clean it there.",
    "Never leave the stove on when you go.",
    "This saves steps later on.",
    "Say what you found, in one sentence.",
)
BAD = {
    "bank": lambda good: {**good, "bank": good["bank"][: len(good["bank"]) // 2]},
    "card": lambda good: {**good, "card": "famly: Qwen3\n"},
    "group": lambda good: {**good, "options": {"only": ["no such group"]}},
    "pin": lambda good: {**good, "options": {"pinned": ["no_such_skill"]}},
    "option": lambda good: {**good, "options": {"enviroment": "a kitchen"}},
    "value": lambda good: {**good, "options": {"only": "clean"}},
}
"""Ways in which requests are wrong."""


@dataclass(slots=True)
class Outcome:
    """What became of a run; `memory` in bytes after each quarter, `wrong` are requests that ended as they must not."""

    seconds: float
    ended: Counter[str]
    wrong: list[str]
    memory: list[int]


def request(number: int) -> dict[str, Any]:
    """Good request `number`: a bank of one or two small groups, a card, options."""
    draw = random.Random(number)
    groups = {
        name: [
            {"skill_id": f"{name}_{n}", "title": f"Skill {n}", "principle": " ".join(draw.sample(SENTENCES, 3))}
            for n in range(draw.randint(1, 2))
        ]
        for name in draw.sample(("clean", "heat", "find"), draw.randint(1, 2))
    }
    bank = {"general_skills": [], "task_specific_skills": groups, "common_mistakes": []}
    options = draw.choice(({}, {"environment": "a kitchen"}, {"task": "clean up", "only": [next(iter(groups))]}))
    return {"bank": json.dumps(bank).encode(), "card": draw.choice(CARDS), "options": options}


def answer(rewriter: Rewriter, asked: dict[str, Any]) -> tuple[bytes, tuple[tuple[str, str, str], ...]]:
    """The rewritten bank, and what became of each group."""
    result = rewriter.rewrite(loads_bank(asked["bank"]), loads_card(asked["card"]), **asked["options"])
    return dump_bank(result.bank), tuple((group.key, group.status, group.raw) for group in result.groups)


def run(rewriter: Rewriter, *, requests: int, distinct: int, threads: int, bad: float, seed: int) -> Outcome:
    """Answer `distinct` requests by one thread, then `requests` of them, some made bad, by all threads."""
    asked = [request(number) for number in range(distinct)]
    right = [answer(rewriter, good) for good in asked]
    draw = random.Random(seed)
    ways = [draw.choice(tuple(BAD)) if n < requests * bad else "" for n in range(requests)]
    draw.shuffle(ways)
    waiting: queue.SimpleQueue[tuple[int, str]] = queue.SimpleQueue()
    for way in ways:
        waiting.put((draw.randrange(distinct), way))
    done = Outcome(0.0, Counter(), [], [])
    lock = threading.Lock()

    def work() -> None:
        while True:
            try:
                number, way = waiting.get_nowait()
            except queue.Empty:
                return
            ended, wrong = "", ""
            try:
                found = answer(rewriter, BAD[way](asked[number]) if way else asked[number])
                ended = "as by one thread" if found == right[number] else "otherwise than by one thread"
                wrong = ended if way or found != right[number] else ""
            except MasaError as error:
                ended = f"{type(error).__name__}"
                wrong = "" if way else f"request {number}: {error}"
            except Exception as error:  # whatever it is, it is a fault
                ended = wrong = f"{type(error).__name__}: {error}"
            with lock:
                done.ended[f"bad ({way}): {ended}" if way else f"good: {ended}"] += 1
                if wrong:
                    done.wrong.append(wrong)
                if sum(done.ended.values()) % max(1, requests // 4) == 0:
                    done.memory.append(machine.memory().get("uss", 0))

    workers = [threading.Thread(target=work) for _ in range(threads)]
    started = time.perf_counter()
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    done.seconds = time.perf_counter() - started
    return done


def tiny_artifact(folder: Path) -> Path:
    """An artifact of a model of two layers with random weights, behind the first 2,048 tokens of SmolLM2."""
    from tests.tiny_gguf import write_tiny_gguf

    shipped = load_artifact("smollm2-135m")
    weights = write_tiny_gguf(shipped.weights_path, folder / "weights.gguf").read_bytes()
    manifest = {
        "format": 1,
        "name": "tiny",
        "version": "0",
        "kind": "gguf",
        "language": "plan",
        "prompt_version": 1,
        "base_model": "tiny",
        "weights": "weights.gguf",
        "adapter": None,
        "chat_template": template_to_json(shipped.chat_template),
        "context_length": 4096,
        "quantization": "F32",
        "training_data": {"summary": "none, its weights are random", "trained": True},
        "licence": "Apache-2.0",
        "files": {"weights.gguf": {"sha256": hashlib.sha256(weights).hexdigest(), "bytes": len(weights)}},
    }
    (folder / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    return folder


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--artifact", help="name or folder (default: a tiny model with random weights)")
    parser.add_argument("--requests", type=int, default=1000)
    parser.add_argument("--distinct", type=int, default=40, help="different good requests among them")
    parser.add_argument("--threads", type=int, default=8)
    parser.add_argument("--bad", type=float, default=0.05, help="share of bad requests")
    parser.add_argument("--bound", type=float, default=8.0, help="MB of growth between first and last quarter")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    found = machine.facts()
    machine.print_facts(found)
    with tempfile.TemporaryDirectory() as folder:
        artifact = options.artifact or str(tiny_artifact(Path(folder)))
        # A request's own threads would only wait for those of its neighbours.
        with Rewriter.load(artifact, cache=False, threads=1) as rewriter:
            outcome = run(
                rewriter,
                requests=options.requests,
                distinct=options.distinct,
                threads=options.threads,
                bad=options.bad,
                seed=options.seed,
            )
    for ended, count in sorted(outcome.ended.items()):
        print(f"{count:6} {ended}")
    megabytes = [round(size / 1e6, 1) for size in outcome.memory]
    growth = megabytes[-1] - megabytes[0]
    print(f"{options.requests} requests from {options.threads} threads in {outcome.seconds:.0f} s")
    print(f"private memory after each quarter: {megabytes} MB, growth {growth:+.1f} MB (bound {options.bound:g})")
    for wrong in dict.fromkeys(outcome.wrong):
        print(f"WRONG: {wrong}")
    return 1 if outcome.wrong or growth > options.bound else 0


if __name__ == "__main__":
    sys.exit(main())
