"""How the runtime's backends compare with each other, with transformers and with llama-cpp-python's chat completion.

    python benchmarks/backends.py                                                  # the shipped artifact
    masa export checkpoint smollm2-135m -o runs/shipped && masa export gguf runs/shipped --quant Q8_0
    python benchmarks/backends.py runs/shipped/gguf/smollm2-135m-plan-q8_0 smollm2-135m --checkpoint runs/shipped

Every side rewrites the same bank for the same card, in the plan language, in a fresh process that has loaded nothing
else; every round runs each side once, every second round in the opposite order. Artifacts go through `masa.Rewriter` as
an agent would use it (constraint, parallel groups, guard), as they are and as the form for this CPU that `masa pull`
made. llama-cpp-python loads the weights of the first GGUF
artifact and answers one chat completion a group, transformers the merged checkpoint in bf16 and generates one group
after the other; both greedy, without a constraint, cut at 160 tokens. Ratios are medians against the first side, a form
where there is one: above 1, the other side takes longer or more.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import machine

from masa import Rewriter, load_bank, resolve_backbone
from masa.artifact import Artifact, load_artifact
from masa.errors import MasaError
from masa.forms.finding import find_form
from masa.progress import Progress
from masa.prompt import INSTRUCTIONS, Prompt, Request, render_prompt
from masa.skills import Group

_OWN_BANK = Path(__file__).resolve().parent.parent / "examples" / "banks" / "household.json"
_TASK, _ENVIRONMENT = "put things where they belong", "household"
_LONGEST = 160
"""Tokens of a plan at most, for the sides that know no grammar that ends it."""

_MEASURES = {
    "bank_seconds": "bank, s",
    "first_seconds": "first group, s",
    "load_seconds": "load, s",
    "memory": "peak memory, MB",
}


@dataclass(frozen=True, slots=True)
class Side:
    """A contestant: `kind` masa, chat or transformers; `path` of its artifact, or of a merged model's folder."""

    name: str
    kind: str
    path: Path


def main() -> None:
    options = _options()
    if options.side:
        print(json.dumps(_measured(json.loads(options.side))))
        return
    found = machine.facts(options.threads)
    say: Callable[[str], None] = (lambda line: None) if options.json else (lambda line: print(line, flush=True))
    if not options.json:
        machine.print_facts(found)
    with tempfile.TemporaryDirectory(prefix="masa-benchmark-") as folder:
        sides = _sides(options, Path(folder), say)
        runs = _rounds(sides, options, say)
    reference = runs[sides[0].name]
    rows = [_row(side, runs[side.name], reference) for side in sides]
    if options.json:
        print(json.dumps({"machine": found, "bank": str(options.bank), "rounds": options.repeats, "sides": rows}))
    else:
        _print(rows, options)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("artifacts", nargs="*", default=["smollm2-135m"], help="artifacts (default: the shipped one)")
    parser.add_argument("--checkpoint", type=Path, help="what they were made from; brings in transformers")
    parser.add_argument("--bank", type=Path, default=_OWN_BANK, help="skill bank (default %(default)s)")
    parser.add_argument("--card", default="smollm2-135m-instruct", help="backbone (default %(default)s)")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3, help="rounds (default %(default)s)")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--side", help=argparse.SUPPRESS)
    return parser.parse_args()


def _sides(options: argparse.Namespace, folder: Path, say: Callable[[str], None]) -> list[Side]:
    artifacts = [load_artifact(name) for name in options.artifacts]
    sides = [
        Side(f"masa, {artifact.name}'s form for this CPU, {form.quantization}", "masa", form.path)
        for artifact in artifacts
        if (form := find_form(artifact)) is not None
    ]
    sides += [Side(f"masa, {_what(artifact)}", "masa", artifact.path) for artifact in artifacts]
    gguf = next((artifact for artifact in artifacts if artifact.kind == "gguf"), None)
    if gguf is not None:
        sides.append(Side(f"llama-cpp-python chat, {_what(gguf)}", "chat", gguf.path))
    if options.checkpoint is None:
        say("transformers is left out: name what the artifacts were made from with --checkpoint")
    else:
        sides.append(Side("transformers generate, bf16", "transformers", _merged(options.checkpoint, folder)))
    return sides


def _what(artifact: Artifact) -> str:
    return f"{artifact.kind} {artifact.quantization or artifact.name}" + (" + LoRA" if artifact.adapter else "")


def _merged(checkpoint: Path, folder: Path) -> Path:
    """The checkpoint as somebody would load it with transformers: merged, bf16, safetensors."""
    import torch

    from masa_export.verify.checkpoint import find_reference
    from masa_training.transformers_backend import load_trained

    found = find_reference(checkpoint)
    if found.source is None:
        model = found.base.model(torch.bfloat16)
    else:
        model = load_trained(found.source.checkpoint, found.base, torch.bfloat16, merged=True)
    model.save_pretrained(folder / "merged")
    return folder / "merged"


def _rounds(sides: Sequence[Side], options: argparse.Namespace, say: Callable[[str], None]) -> dict[str, list[Any]]:
    runs: dict[str, list[Any]] = {side.name: [] for side in sides}
    tokenizing = next((side.path for side in sides if side.kind == "masa"), None)
    for number in range(options.repeats):
        for side in sides if number % 2 == 0 else list(reversed(sides)):
            job = {
                "kind": side.kind,
                "path": str(side.path),
                "tokenizing": str(tokenizing),
                "bank": str(options.bank),
                "card": options.card,
                "checkpoint": str(options.checkpoint),
                "threads": options.threads,
            }
            command = [sys.executable, __file__, "--side", json.dumps(job)]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                said = done.stderr.strip().splitlines() or [f"ended with status {done.returncode} and said nothing"]
                raise SystemExit(f"benchmarks/backends.py: {side.name}: {said[-1]}")
            run = json.loads(done.stdout.splitlines()[-1])
            runs[side.name].append(run)
            say(f"round {number + 1}: {side.name}: {run['bank_seconds']:.1f} s, {run['tokens']} tokens")
    return runs


def _row(side: Side, runs: Sequence[Mapping[str, Any]], reference: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    def middle(of: Sequence[Mapping[str, Any]], key: str) -> float:
        return float(statistics.median(run[key] for run in of))

    texts, right = runs[0]["texts"], reference[0]["texts"]
    return {
        "side": side.name,
        **{key: round(middle(runs, key), 4) for key in _MEASURES},
        "ratios": {key: round(middle(runs, key) / middle(reference, key), 3) for key in _MEASURES},
        "prompt_tokens": runs[0]["prompt_tokens"],
        "tokens": runs[0]["tokens"],
        "tokens_per_second": round(runs[0]["tokens"] / middle(runs, "bank_seconds"), 2),
        "same_texts": sum(texts.get(key) == text for key, text in right.items()),
        "groups": len(right),
        "runs": [{key: run[key] for key in _MEASURES} for run in runs],
    }


def _print(rows: Sequence[Mapping[str, Any]], options: argparse.Namespace) -> None:
    print(f"\nmedians of {options.repeats} rounds, {options.threads} threads, {options.bank.name}; × against the first")
    head = ["side", *_MEASURES.values(), "read", "written", "written/s", "same text"]
    print("| " + " | ".join(head) + " |\n|" + "---|" * len(head))
    for row in rows:
        cells = [str(row["side"])]
        for key in _MEASURES:
            value = row[key] / 1e6 if key == "memory" else row[key]
            cells.append(f"{value:.0f}" if key == "memory" else f"{value:.2f}")
            cells[-1] += f" ({row['ratios'][key]:.2f}×)"
        cells += [f"{row['prompt_tokens']}", f"{row['tokens']}", f"{row['tokens_per_second']:.1f}"]
        cells.append(f"{row['same_texts']} of {row['groups']}")
        print("| " + " | ".join(cells) + " |")


# --- in a process of its own ------------------------------------------------------------------------------------


def _measured(job: Mapping[str, Any]) -> dict[str, Any]:
    groups = [group for group in load_bank(job["bank"]).groups() if len(group)]
    sides = {"masa": _masa, "chat": _chat, "transformers": _transformers}
    return {**sides[job["kind"]](job, groups), "memory": machine.memory()["peak"]}


def _masa(job: Mapping[str, Any], groups: Sequence[Group]) -> dict[str, Any]:
    bank, card = load_bank(job["bank"]), resolve_backbone(job["card"])
    first: list[float] = []

    def look(progress: Progress) -> None:
        if progress.finished is not None and not first:
            first.append(time.perf_counter() - begun)

    begun = time.perf_counter()
    with Rewriter.load(job["path"], threads=job["threads"], cache=False, verify=False, form=False) as rewriter:
        # It opens its model when it is first needed.
        rewriter.estimate(bank, card, task=_TASK, environment=_ENVIRONMENT, only=[groups[0].key])
        loaded = time.perf_counter() - begun
        begun = time.perf_counter()
        result = rewriter.rewrite(bank, card, task=_TASK, environment=_ENVIRONMENT, on_progress=look)
        whole = time.perf_counter() - begun
    return {
        "load_seconds": loaded,
        "first_seconds": first[0] if first else whole,
        "bank_seconds": whole,
        "prompt_tokens": sum(group.prompt_tokens for group in result.groups),
        "tokens": result.tokens,
        "texts": {group.key: (group.raw or "").strip() for group in result.groups},
    }


def _prompts(job: Mapping[str, Any], groups: Sequence[Group]) -> Iterator[tuple[Group, Prompt]]:
    template = load_artifact(job["tokenizing"], verify=False).chat_template
    card = resolve_backbone(job["card"]).fields()
    for group in groups:
        yield group, render_prompt(Request(group, card, _TASK, _ENVIRONMENT), "plan", template)


def _one_by_one(
    job: Mapping[str, Any],
    groups: Sequence[Group],
    loaded: float,
    write: Callable[[Prompt], tuple[str, int, int]],
) -> dict[str, Any]:
    """`write` takes a prompt and gives the text, and how many tokens were read and written."""
    texts, read, written, first = {}, 0, 0, 0.0
    prompts = list(_prompts(job, groups))
    begun = time.perf_counter()
    for group, prompt in prompts:
        text, of_prompt, of_output = write(prompt)
        texts[group.key] = text.strip()
        read, written = read + of_prompt, written + of_output
        first = first or time.perf_counter() - begun
    return {
        "load_seconds": loaded,
        "first_seconds": first,
        "bank_seconds": time.perf_counter() - begun,
        "prompt_tokens": read,
        "tokens": written,
        "texts": texts,
    }


def _chat(job: Mapping[str, Any], groups: Sequence[Group]) -> dict[str, Any]:
    from llama_cpp import Llama

    artifact = load_artifact(job["path"], verify=False)
    begun = time.perf_counter()
    llama = Llama(
        str(artifact.weights_path),
        lora_path=str(artifact.adapter_path) if artifact.adapter else None,
        n_ctx=8192,
        n_threads=job["threads"],
        n_threads_batch=job["threads"],
        verbose=False,
    )
    loaded = time.perf_counter() - begun

    def write(prompt: Prompt) -> tuple[str, int, int]:
        system, user = _said(job, prompt)
        answer: Any = llama.create_chat_completion(
            [{"role": "system", "content": system}, {"role": "user", "content": user}],
            temperature=0.0,
            repeat_penalty=1.0,
            max_tokens=_LONGEST,
        )
        usage = answer["usage"]
        return answer["choices"][0]["message"]["content"], usage["prompt_tokens"], usage["completion_tokens"]

    return _one_by_one(job, groups, loaded, write)


def _said(job: Mapping[str, Any], prompt: Prompt) -> tuple[str, str]:
    """The system and the user message of a prompt, without the template's pieces."""
    template = load_artifact(job["tokenizing"], verify=False).chat_template
    asked = prompt.shared[len(template.before_system) + 1 + len(template.before_user) :]
    segments = (*asked, *prompt.own[: len(prompt.own) - len(template.before_assistant)])
    return INSTRUCTIONS["plan"], "".join(segment.text for segment in segments)


def _transformers(job: Mapping[str, Any], groups: Sequence[Group]) -> dict[str, Any]:
    import os

    os.environ.setdefault("TQDM_DISABLE", "1")
    begun = time.perf_counter()
    import torch
    from transformers import AutoModelForCausalLM

    from masa_export.verify.checkpoint import find_reference

    torch.set_num_threads(job["threads"])
    model: Any = AutoModelForCausalLM.from_pretrained(job["path"], dtype=torch.bfloat16)
    model.eval()
    loaded = time.perf_counter() - begun
    tokenizer = find_reference(Path(job["checkpoint"])).base.tokenizer()
    artifact = load_artifact(job["tokenizing"], verify=False)
    stop = [token for text in artifact.stop if (token := tokenizer.token_id(text)) is not None]

    def write(prompt: Prompt) -> tuple[str, int, int]:
        source = tokenizer.tokenize((*prompt.shared, *prompt.own))
        with torch.inference_mode():
            made = model.generate(
                torch.tensor([source]),
                attention_mask=torch.ones(1, len(source), dtype=torch.long),
                do_sample=False,
                max_new_tokens=_LONGEST,
                eos_token_id=stop,
                pad_token_id=stop[0],
            )
        written = made[0, len(source) :].tolist()
        text = tokenizer.detokenize([token for token in written if token not in stop]).decode(errors="replace")
        return text, len(source), len(written)

    return _one_by_one(job, groups, loaded, write)


if __name__ == "__main__":
    try:
        main()
    except MasaError as error:
        sys.exit(f"benchmarks/backends.py: {error}")
