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
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import machine

from masa.artifact import Artifact, load_artifact
from masa.backends import open_backend
from masa.checksums import sha256_file
from masa.engine import Engine
from masa.forms.finding import find_form
from masa.forms.graph import write_graph
from masa.forms.weights import read_model
from masa.prompt import Segment
from masa_export.verify.outputs import write_outputs
from masa_export.verify.samples import Sample, parse_sample


def plans(artifact: Artifact, samples: Sequence[Sample]) -> tuple[dict[str, str], float]:
    """What the artifact writes for each sample, by its id, and seconds."""
    with closing(open_backend(artifact)) as backend:
        engine = Engine(artifact, lambda: backend, artifact.language, keep_warm=False)
        begun = time.perf_counter()
        found = write_outputs(
            engine, artifact.chat_template, artifact.prompt_version, artifact.language, samples, cautious=False
        )
        seconds = time.perf_counter() - begun
        engine.close()
    return {name: written.text.strip() for name, written in found.items()}, seconds


def preference(artifact: Artifact, sample: Sample, own: str, other: str) -> float:
    """By how many nats the artifact prefers what it wrote, at the first token where the other plan differs."""
    with closing(open_backend(artifact)) as backend:
        asked = sample.prompt(artifact.language, artifact.chat_template, artifact.prompt_version, None)
        prompt = backend.tokenize((*asked.shared, *asked.own))
        stop = backend.token_id(artifact.chat_template.stop[0])
        assert stop is not None
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
    path = options.dataset / f"{options.split}.jsonl"
    lines = [line for line in path.read_text("utf-8").splitlines() if line.strip()][: options.groups]
    samples = [parse_sample(line, f"{path}, line {number}") for number, line in enumerate(lines, start=1)]
    with tempfile.TemporaryDirectory(prefix="masa-benchmark-") as name:
        exact = checkpoint(artifact, form, Path(name))
        expected, slow = plans(exact, samples)
        found, fast = plans(form, samples)
        for sample in samples:
            left, right = expected[sample.id], found[sample.id]
            if left != right:
                print(f"{sample.id}, {preference(exact, sample, left, right):.3f} nats")
                print(f"  checkpoint: {left.splitlines()}\n  form:       {right.splitlines()}")
    both = [(expected[sample.id], found[sample.id]) for sample in samples]
    pairs = [pair for left, right in both for pair in zip(left.splitlines(), right.splitlines(), strict=False)]
    print(
        f"{form.quantization}: {sum(a == b for a, b in both)} of {len(both)} groups as the checkpoint plans them, "
        f"{sum(a == b for a, b in pairs)} of {len(pairs)} lines; {fast:.1f} and {slow:.1f} s"
    )


if __name__ == "__main__":
    main()
