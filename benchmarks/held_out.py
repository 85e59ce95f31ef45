"""How often the form for this CPU plans a group as the checkpoint does.

    masa distill dataset plan-bootstrap-small -o bootstrap --data-dir DATA
    python benchmarks/held_out.py bootstrap --groups 50

The checkpoint is base and adapter of the artifact, merged in float32. Both are asked about the first groups of the data
set's split `test` as `masa rewrite` asks, greedy and constrained. What differs is printed, with what the checkpoint
gives for its own token where both part, in nats: near 0 is a tie that any rounding turns over.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import machine

from masa.artifact import Artifact, load_artifact
from masa.backends import open_backend
from masa.checksums import sha256_file
from masa.engine import Engine
from masa.forms.finding import find_form
from masa.forms.graph import write_graph
from masa.forms.weights import read_model
from masa.group_rewrite import Work, prepare
from masa.progress import Tracker
from masa.prompt import Segment, render_prompt
from masa.sampling import Sampling
from masa_training.samples import read_samples


def plans(artifact: Artifact, works: list[Work]) -> tuple[list[str], float]:
    """What the artifact writes for each group, and seconds."""
    engine = Engine(artifact, lambda: open_backend(artifact), artifact.language, keep_warm=False)
    engine.backend()
    begun = time.perf_counter()
    found = dict(engine.run(works, Sampling(), Tracker(len(works), None), lambda: False))
    seconds = time.perf_counter() - begun
    engine.close()
    return [(found[number].raw or "").strip() for number in range(len(works))], seconds


def preference(artifact: Artifact, work: Work, own: str, other: str) -> float:
    """By how many nats the artifact prefers what it wrote, at the first token where the other plan differs."""
    with closing(open_backend(artifact)) as backend:
        asked = render_prompt(work.request, artifact.language, artifact.chat_template, version=artifact.prompt_version)
        prompt = backend.tokenize((*asked.shared, *asked.own))
        stop = backend.token_id(artifact.chat_template.stop[0])
        mine, theirs = ([*backend.tokenize((Segment(text),)), stop] for text in (own, other))
        same = next(place for place, pair in enumerate(zip(mine, theirs, strict=False)) if pair[0] != pair[1])
        session = backend.session(slots=1, length=len(prompt) + same + 1)
        session.begin(0, prompt[:-1])
        logits = session.step([(0, [prompt[-1], *mine[:same]])], [1])[0][-1]
        session.close()
    return float(logits[mine[same]] - logits[theirs[same]])


def checkpoint(artifact: Artifact, form: Artifact, folder: Path) -> Artifact:
    """The merged weights in float32, as an artifact in `folder`."""
    write_graph(read_model(artifact), "fp32", folder / "model.onnx")
    (folder / "tokenizer.json").write_bytes((form.path / "tokenizer.json").read_bytes())
    manifest = json.loads((form.path / "manifest.json").read_text())
    names = ("model.onnx", "model.onnx.data", "tokenizer.json")
    files = {name: {"sha256": sha256_file(folder / name), "bytes": (folder / name).stat().st_size} for name in names}
    (folder / "manifest.json").write_text(json.dumps({**manifest, "quantization": "fp32", "files": files}))
    return load_artifact(folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", type=Path, help="a folder of masa distill dataset")
    parser.add_argument("--artifact", default="smollm2-135m", help="default %(default)s")
    parser.add_argument("--split", default="test", help="default %(default)s")
    parser.add_argument("--groups", type=int, default=50, help="default %(default)s")
    options = parser.parse_args()
    machine.print_facts(machine.facts())
    artifact = load_artifact(options.artifact)
    form = find_form(artifact)
    if form is None:
        sys.exit(f"{options.artifact}: has no form for this CPU; run masa pull {options.artifact}")
    samples = list(read_samples(options.dataset / f"{options.split}.jsonl"))[: options.groups]
    works = []
    for number, sample in enumerate(samples):
        group = replace(sample.request.group, task_type=f"group_{number:02}")
        works.append(prepare(replace(sample.request, group=group), frozenset(), artifact.language))
    with tempfile.TemporaryDirectory(prefix="masa-benchmark-") as name:
        exact = checkpoint(artifact, form, Path(name))
        expected, slow = plans(exact, works)
        found, fast = plans(form, works)
        for number, (sample, work, left, right) in enumerate(
            zip(samples, works, expected, found, strict=True), start=1
        ):
            if left != right:
                nats = preference(exact, work, left, right)
                print(f"{number}. {sample.id}, {nats:.3f} nats\n  checkpoint: {left.splitlines()}")
                print(f"  form:       {right.splitlines()}")
    same = sum(left == right for left, right in zip(expected, found, strict=True))
    both = zip(expected, found, strict=True)
    pairs = [pair for left, right in both for pair in zip(left.splitlines(), right.splitlines(), strict=False)]
    print(
        f"{form.quantization}: {same} of {len(works)} groups as the checkpoint plans them, "
        f"{sum(a == b for a, b in pairs)} of {len(pairs)} lines; {fast:.1f} and {slow:.1f} s"
    )


if __name__ == "__main__":
    main()
