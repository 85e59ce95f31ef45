"""Time against tokens read, and against the size of a bank, for each form of a rewriter, drawn.

    python benchmarks/curves.py                       # the shipped rewriter as shipped, and its form for this CPU
    python benchmarks/curves.py runs/shipped/gguf/smollm2-135m-plan-q8_0      # another artifact beside them
    python benchmarks/curves.py --tokens 64,128 --groups 1,2 --repeats 1 --output look.svg       # a quick look

The left panel reads random tokens in one sequence. The right one rewrites banks of four skills a group as an agent
would, the process loaded, without a cache. Every point is the fastest of some runs, taken in rounds; a point that one
run shows to take more than `--longest` seconds is not run again, nor a larger one of the same side. Needs matplotlib.
"""

from __future__ import annotations

import argparse
import io
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from pathlib import Path

import machine
import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter
from processes import large_bank

from masa import Rewriter, load_bank, resolve_backbone
from masa.artifact import Artifact, load_artifact
from masa.backends import open_backend
from masa.errors import MasaError
from masa.files import write_atomic
from masa.forms.finding import find_form

_ROOT = Path(__file__).resolve().parent.parent
_COLOURS = ("#bb5566", "#4477aa", "#ddaa33", "#228833")

Points = dict[int, float]
"""Seconds by tokens or by groups."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("artifacts", nargs="*", help="artifacts beside the shipped one and its form")
    parser.add_argument(
        "--tokens", type=_sizes, default=_sizes("64,128,256,512,1024"), help="default 64,128,256,512,1024"
    )
    parser.add_argument("--groups", type=_sizes, default=_sizes("1,2,4,8,16,32"), help="default 1,2,4,8,16,32")
    parser.add_argument("--repeats", type=int, default=2, help="rounds (default %(default)s)")
    parser.add_argument("--longest", type=float, default=8, help="seconds (default %(default)s)")
    parser.add_argument("--output", type=Path, default=_ROOT / "docs" / "benchmarks.svg", help="default %(default)s")
    options = parser.parse_args()
    machine.print_facts(machine.facts())
    sides = _sides(options.artifacts)
    read: dict[str, Points] = defaultdict(dict)
    whole: dict[str, Points] = defaultdict(dict)
    for number in range(options.repeats):
        for name, artifact in list(sides.items())[:: 1 if number % 2 == 0 else -1]:
            _measure(artifact, options.tokens, options.longest, read[name], _reading)
            _measure(artifact, options.groups, options.longest, whole[name], _rewriting)
    for what, points in (("tokens read", read), ("groups", whole)):
        for name in sides:
            print(f"{name}, s by {what}: " + ", ".join(f"{size} {time:.3g}" for size, time in points[name].items()))
    write_atomic(options.output, draw({name: (read[name], whole[name]) for name in sides}))
    print(options.output)


def _sizes(text: str) -> tuple[int, ...]:
    return tuple(sorted(int(size) for size in text.split(",")))


def _sides(others: list[str]) -> dict[str, Artifact]:
    shipped = load_artifact("smollm2-135m")
    form = find_form(shipped)
    found = {f"{shipped.quantization} + LoRA in llama.cpp, as shipped": shipped}
    found |= {f"{form.quantization} in ONNX Runtime, the form for this CPU": form} if form else {}
    return found | {f"{other.kind} {other.quantization}": other for other in map(load_artifact, others)}


def _measure(
    artifact: Artifact, sizes: tuple[int, ...], longest: float, points: Points, opened: Callable[[Artifact], _Run]
) -> None:
    """The fastest seconds of each size so far, where these stay below `longest`."""
    run, close = opened(artifact)
    run(sizes[0])  # warms up
    for size in sizes:
        if points.get(size, 0.0) > longest:
            break
        seconds = run(size)
        points[size] = min(seconds, points.get(size, seconds))
        if seconds > longest:
            break
    close()


_Run = tuple[Callable[[int], float], Callable[[], None]]
"""What takes seconds for a size, and what ends it."""


def _reading(artifact: Artifact) -> _Run:
    backend = open_backend(artifact)

    def run(count: int) -> float:
        tokens = np.random.default_rng(count).integers(100, 1000, count).tolist()
        session = backend.session(slots=1, length=count + 1)
        begun = time.perf_counter()
        session.begin(0, tokens)
        seconds = time.perf_counter() - begun
        session.close()
        return seconds

    return run, backend.close


def _rewriting(artifact: Artifact) -> _Run:
    bank, card = load_bank(_ROOT / "examples/banks/household.json"), resolve_backbone(_ROOT / "examples/card.yaml")
    rewriter = Rewriter.load(artifact, cache=False, form=False)

    def run(groups: int) -> float:
        of_that_size = large_bank(bank, groups, 4 * groups)
        begun = time.perf_counter()
        rewriter.rewrite(of_that_size, card)
        return time.perf_counter() - begun

    return run, rewriter.close


def draw(sides: Mapping[str, tuple[Points, Points]]) -> bytes:
    """Both panels as SVG: letters as text, and the same bytes for the same points."""
    figure = Figure(figsize=(8, 3.2), layout="constrained")
    panels = figure.subplots(1, 2)
    for panel, label, place in zip(panels, ("tokens read", "groups of four skills"), (0, 1), strict=True):
        for (name, points), colour in zip(sides.items(), _COLOURS, strict=False):
            panel.plot(*zip(*points[place].items(), strict=True), "o-", color=colour, label=name, markersize=4)
        sizes = sorted({size for points in sides.values() for size in points[place]})
        panel.set_xscale("log", base=2)
        panel.set_yscale("log")
        panel.set_xticks(sizes, [f"{size}" for size in sizes])
        panel.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        panel.yaxis.set_major_formatter("{x:g}")
        panel.yaxis.set_minor_formatter(NullFormatter())
        panel.set_xlabel(label)
        panel.grid(color="#dddddd", linewidth=0.5)
    panels[0].set_ylabel("seconds")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper left", ncols=3, fontsize=8, frameon=False)
    out = io.BytesIO()
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "masa"}):
        figure.savefig(out, format="svg", metadata={"Date": None})
    return out.getvalue()


if __name__ == "__main__":
    try:
        main()
    except MasaError as error:
        sys.exit(f"benchmarks/curves.py: {error}")
