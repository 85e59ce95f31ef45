"""How fast a bank is rewritten and how much memory that takes.

    python benchmarks/rewrite.py
    python benchmarks/rewrite.py --rows 3,4,5 --groups 2 --repeats 1

Both sides of a row are measured in this process, in turns: every round runs each side once, every second round in the
opposite order, and a ratio is one of medians. Memory alone is measured in fresh processes. See `sides.py` for what
each side does and how both are made to write the same content.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import machine
from machine import Row, describe
from sides import (
    ChatCompletion,
    PlanLoop,
    PlanRewrite,
    Run,
    Setting,
    Side,
    TextLoop,
    Transformers,
    requantize,
    rewriter,
)

from masa import load_bank, resolve_backbone
from masa.artifact import Artifact, load_artifact
from masa.cache import RewriteCache
from masa.errors import MasaError
from masa.forms.finding import find_form
from masa.sampling import Sampling

_ROOT = Path(__file__).resolve().parent.parent
_BANK = _ROOT.parent / "shared" / "data" / "skillrl" / "alfworld.json"
_OWN_BANK = _ROOT / "examples" / "banks" / "household.json"
_ROWS = (1, 2, 3, 4, 5, 7)

Runs = dict[str, list[Run]]


def main() -> None:
    options = _options()
    if options.memory_of:
        _measure_memory(options)
        return
    found = machine.facts(options.threads)
    with tempfile.TemporaryDirectory(prefix="masa-benchmark-") as folder:
        setting = _setting(options, Path(folder), found)
        if not options.json:
            machine.print_facts(found)
            print(f"weights {found['weights']}; bank {found['bank']}, {len(setting.groups)} groups\n", flush=True)
        rows = _measure(setting, options, Path(folder))
    if options.json:
        print(json.dumps({"machine": found, "rows": [row.to_json() for row in rows]}, indent=2))
    else:
        machine.print_rows(rows)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", default=",".join(map(str, _ROWS)), help="rows to measure (default %(default)s)")
    parser.add_argument("--bank", type=Path, help=f"skill bank (default {_BANK.name} of SkillRL, else ours)")
    parser.add_argument("--groups", type=int, help="only the first N groups, for a quick look")
    parser.add_argument("--weights", type=Path, help="GGUF (default: the shipped artifact's, requantized to Q8_0)")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3, help="rounds (default %(default)s)")
    parser.add_argument("--extra", action="store_true", help="also time prompt-lookup drafts; not counted in any row")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--memory-of", choices=("plan", "text"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.rows = [int(number) for number in options.rows.split(",")]
    if unknown := set(options.rows) - set(_ROWS):
        parser.error(f"rows {sorted(unknown)} are not measured here; known: {', '.join(map(str, _ROWS))}")
    return options


def _setting(options: argparse.Namespace, folder: Path, found: dict[str, object]) -> Setting:
    path = options.bank or (_BANK if _BANK.is_file() else _OWN_BANK)
    found["bank"] = str(path)
    if options.bank is None and path == _OWN_BANK:
        found["bank"] = f"{path} ({_BANK} is not here, so the goals' bank was not measured)"
    weights = options.weights
    if weights is None:
        source = load_artifact("smollm2-135m").weights_path
        weights = folder / "SmolLM2-135M-Instruct.Q8_0.gguf"
        requantize(source, weights, threads=options.threads)
    found["weights"] = f"{weights.name}, {weights.stat().st_size / 1e6:.1f} MB"
    bank = load_bank(path)
    groups = tuple(group for group in bank.groups() if len(group))[: options.groups]
    return Setting(weights, options.threads, bank, groups, resolve_backbone(str(weights)))


def _as_shipped_and_form() -> list[Artifact]:
    shipped = load_artifact("smollm2-135m")
    form = find_form(shipped)
    return [shipped, form] if form else [shipped]


# --- rounds ---------------------------------------------------------------------------------------------------


def _measure(setting: Setting, options: argparse.Namespace, folder: Path) -> list[Row]:
    rows = list(dict.fromkeys(options.rows))
    say: Callable[[str], None] = (lambda line: None) if options.json else (lambda line: print(line, flush=True))
    with_torch = 2 in rows and Transformers.available()
    text = TextLoop(setting, "text")
    sides: list[Side] = []
    if {1, 3} & set(rows) or with_torch:
        sides.append(text)
    if 1 in rows:
        sides.append(ChatCompletion(setting))
    if 3 in rows:
        sides.append(PlanRewrite(setting, "plan"))
    if 4 in rows:
        for artifact in _as_shipped_and_form():
            what = f"{artifact.kind} {artifact.quantization}"
            constrained = PlanLoop(setting, f"{what}, constrained", artifact)
            all_computed = Sampling(forced=False)
            sides += [
                constrained,
                PlanLoop(setting, f"{what}, free", artifact, like=constrained, free=True),
                PlanLoop(
                    setting, f"{what}, constrained, nothing forced", artifact, like=constrained, sampling=all_computed
                ),
            ]
    if with_torch:
        sides.append(Transformers(setting, text))
    if options.extra:
        draft = Sampling(forced=False, draft=8)
        sides.append(TextLoop(setting, "text with 8 drafts", sampling=draft))
        sides.append(TextLoop(setting, "text one by one", sampling=Sampling(forced=False, parallel=1)))
    runs = _rounds(sides, options.repeats, say)
    made: dict[int, Callable[[], Row]] = {
        1: lambda: _row_chat(runs),
        2: lambda: _row_transformers(runs, with_torch),
        3: lambda: _row_plan(runs),
        4: lambda: _row_constraint(runs),
        5: lambda: _row_memory(setting, options),
        7: lambda: _row_cache(setting, options, folder),
    }
    rows_made = [made[number]() for number in rows]
    if options.extra and not options.json:
        print("\nnot counted:")
        for name in ("text with 8 drafts", "text one by one"):
            print(f"  {_line(name, runs[name])}")
        print("  (drafts copy from the prompt, and this content is a copy: their best case)\n")
    return rows_made


def _rounds(sides: Sequence[Side], repeats: int, say: Callable[[str], None]) -> Runs:
    """Run every side once a round, in turns, the order turned round every second time."""
    runs: Runs = {side.name: [] for side in sides}
    by_name = {side.name: side for side in sides}
    try:
        for side in sides:
            begun = time.perf_counter()
            side.load()
            say(f"loaded {side.name} in {time.perf_counter() - begun:.1f} s")
        for number in range(repeats):
            # Some sides need what another wrote in the first round.
            for side in sides if number % 2 == 0 else reversed(sides):
                _connect(by_name, runs)
                run = side.run()
                runs[side.name].append(run)
                say(f"round {number + 1}: {side.name}: {run.seconds:.2f} s, {run.tokens} tokens")
    finally:
        for side in sides:
            side.close()
    return runs


def _connect(sides: dict[str, Side], runs: Runs) -> None:
    """Hand the ids that masa wrote to transformers."""
    reference = sides.get("transformers")
    if isinstance(reference, Transformers) and runs["text"]:
        reference.targets = runs["text"][0].outputs


# --- rows -----------------------------------------------------------------------------------------------------


def _row_chat(runs: Runs) -> Row:
    ratio = _median(runs["llama-cpp-python"]) / _median(runs["text"])
    return Row(
        1,
        "text language, same content",
        "llama-cpp-python chat completion with a JSON schema, group by group",
        ratio,
        "≥ 4",
        ratio >= 4,
        (
            _line("text", runs["text"]),
            _line("llama-cpp-python", runs["llama-cpp-python"]),
            f"per token: {_per_token(runs['llama-cpp-python']) / _per_token(runs['text']):.2f} times faster; the rest "
            "is JSON taking more tokens for the same words",
        ),
        _figures(runs, "text", "llama-cpp-python"),
    )


def _row_transformers(runs: Runs, available: bool) -> Row:
    what, against = "text language, same content", "transformers generate, bf16, group by group"
    if not available:
        return Row(2, what, against, None, "≥ 6", None, (f"not run: {Transformers.install}",), {})
    ratio = _median(runs["transformers"]) / _median(runs["text"])
    lines = (_line("text", runs["text"]), _line("transformers", runs["transformers"]))
    return Row(2, what, against, ratio, "≥ 6", ratio >= 6, lines, _figures(runs, "text", "transformers"))


def _row_plan(runs: Runs) -> Row:
    ratio = _median(runs["text"]) / _median(runs["plan"])
    return Row(
        3,
        "plan language, as the weights write it",
        "text language, same weights",
        ratio,
        "≥ 8",
        ratio >= 8,
        (_line("plan", runs["plan"]), _line("text", runs["text"])),
        _figures(runs, "plan", "text"),
    )


def _row_constraint(runs: Runs) -> Row:
    """The last artifact counts: the form for this CPU, where there is one."""
    lines, figures, slower = [], {}, {}
    for free in [name for name in runs if name.endswith(", free")]:
        constrained = free.replace("free", "constrained")
        for name in (constrained, free, f"{constrained}, nothing forced"):
            slower[name] = 100 * (_median(runs[name]) / _median(runs[free]) - 1)
            lines.append(f"{_line(name, runs[name])}, {runs[name][0].steps} passes, {slower[name]:+.1f} %")
            figures[name] = _figures(runs, name)[name]
    ratio = slower[constrained]
    return Row(
        4,
        "constrained decoding (plan language), % slower",
        "the same tokens without the constraint",
        ratio,
        "≤ 2 %",
        ratio <= 2,
        tuple(lines),
        figures,
    )


def _row_memory(setting: Setting, options: argparse.Namespace) -> Row:
    size = setting.weights.stat().st_size
    lines, figures = [], {}
    for language in ("plan", "text"):
        used = _memory_of_process(setting, options, language)
        figures[language] = used
        parts = ", ".join(f"{key} {value / 1e6:.0f} MB" for key, value in used.items())
        lines.append(f"{language}: {parts}; peak / weights = {used['peak'] / size:.2f}")
    ratio = figures["plan"]["peak"] / size
    return Row(
        5,
        "peak memory of a process that rewrites the bank (plan)",
        f"file size of the weights, {size / 1e6:.1f} MB",
        ratio,
        "≤ 2.5",
        ratio <= 2.5,
        (*lines, "pss and uss as they were at the last step, with the KV memory in use"),
        {"weights": size, **figures},
    )


def _row_cache(setting: Setting, options: argparse.Namespace, folder: Path) -> Row:
    first, again = [], []
    for number in range(options.repeats):
        # An own folder each: what is found must have been written by this very first run.
        side = PlanRewrite(setting, "cache", cache=RewriteCache(folder / f"cache{number}"))
        side.load()
        first.append(side.run())
        again.append(side.run())
        side.close()
    ratio = _median(first) / _median(again)
    return Row(
        7,
        "cached rewrite (plan language)",
        "first rewrite",
        ratio,
        "≥ 1000",
        ratio >= 1000,
        (_line("cached", again), _line("first", first)),
        _figures({"cached": again, "first": first}, "cached", "first"),
    )


def _median(runs: Sequence[Run]) -> float:
    return statistics.median(run.seconds for run in runs)


def _per_token(runs: Sequence[Run]) -> float:
    return _median(runs) / runs[0].tokens


def _line(name: str, runs: Sequence[Run]) -> str:
    run = runs[0]
    speed = run.tokens / _median(runs)
    return (
        f"{name}: {describe([r.seconds for r in runs])}, read {run.prompt_tokens}, wrote {run.tokens} tokens "
        f"({speed:.1f} tokens/s, prompts included)"
    )


def _figures(runs: Runs, *names: str) -> dict[str, object]:
    return {
        name: {
            "seconds": [round(run.seconds, 4) for run in runs[name]],
            "prompt_tokens": runs[name][0].prompt_tokens,
            "tokens": runs[name][0].tokens,
            "tokens_per_second": round(runs[name][0].tokens / _median(runs[name]), 2),
        }
        for name in names
    }


# --- memory, in a process of its own ----------------------------------------------------------------------------


def _memory_of_process(setting: Setting, options: argparse.Namespace, language: str) -> dict[str, int]:
    command = [sys.executable, __file__, "--memory-of", language, "--weights", str(setting.weights)]
    command += ["--threads", str(options.threads)]
    if options.bank:
        command += ["--bank", str(options.bank)]
    if options.groups:
        command += ["--groups", str(options.groups)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"the process that measures memory failed: {done.stderr.strip()}")
    found: dict[str, int] = json.loads(done.stdout.splitlines()[-1])
    return found


def _measure_memory(options: argparse.Namespace) -> None:
    """Load, rewrite, report; what a process with masa in it holds at its peak."""
    found: dict[str, object] = {}
    setting = _setting(options, Path(tempfile.gettempdir()), found)
    last: dict[str, int] = {}
    looks = 0

    def look(_: object) -> None:
        nonlocal looks
        looks += 1
        if looks % 16 == 0:
            last.update(machine.memory())

    def enough() -> bool:
        # Text from untrained weights is long and all memory is in use after the prompts; a plan is written whole.
        return options.memory_of == "text" and looks > 64

    with rewriter(setting, language=options.memory_of) as made:
        keys = [group.key for group in setting.groups]
        made.rewrite(setting.bank, setting.card, only=keys, on_progress=look, cancel=enough)
    last["peak"] = machine.memory()["peak"]
    print(json.dumps(last))


if __name__ == "__main__":
    try:
        main()
    except MasaError as error:
        sys.exit(f"benchmarks/rewrite.py: {error}")
