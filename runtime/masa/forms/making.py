"""Making a form: merge, write, compare, keep."""

from __future__ import annotations

import json
import shutil
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from masa.artifact import Artifact, load_artifact
from masa.backends.onnx_tokenizer import TOKENIZER_NAME
from masa.checksums import sha256_file
from masa.errors import BackendError, MasaError
from masa.files import make_folder, parse_json, read_bytes, write_atomic
from masa.forms.finding import CHECKS_NAME, TIE, Check, form_folder
from masa.forms.graph import signed_saturates, write_graph
from masa.forms.reference import Sizes, forward
from masa.forms.rounding import smoothed
from masa.forms.tokenizer import write_tokenizer
from masa.forms.weights import Model, read_model
from masa.manifest import MANIFEST_NAME
from masa.prompt import Request, Segment, render_prompt
from masa.skills import Group, Skill
from masa.wording import must_survive

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from masa.backends.onnx import OnnxBackend
    from masa.forms.weights import Array

Tell = Callable[[str], None]

_GRAPH = "model.onnx"
_FORMS = ("int8", "w8")  # the one expected to be fastest first
_FORMS_IF_SATURATING = ("uint8", "w8")


def make_form(artifact: Artifact, *, tell: Tell = lambda _: None, threads: int | None = None) -> Artifact:
    """Write the form for this machine and return it; half a minute for 135M parameters, and memory for them in float32.

    `tell` gets a phrase for each step.

    Raises:
        MissingExtraError: if a package is missing.
        BackendError: if the rewriter has a shape that is not known here, or no form computes what it does.
        WriteError: if the disk is full or may not be written.
    """
    tell("merging the adapter")
    model = read_model(artifact)
    target = form_folder(artifact)
    work = make_folder(target.parent) / f".{uuid.uuid4().hex}"
    work.mkdir()
    try:
        write_tokenizer(artifact.weights_path, work / TOKENIZER_NAME)
        tried: list[Check] = []
        samples = list(_samples(artifact, model, work))
        tell("computing what it must answer")
        sizes = Sizes()
        forward(model, [*samples[0][0], *samples[0][1]], last=1, sizes=sizes)
        checked = samples[1:]
        expected = [_log_probabilities(forward(model, [*asked, *said], last=len(said))) for asked, said in checked]
        model = smoothed(model, sizes)
        for form in _FORMS_IF_SATURATING if signed_saturates() else _FORMS:
            tell(f"writing {form}")
            write_graph(model, form, work / _GRAPH)
            tried.append(_check(work, form, checked, expected, threads))
            if tried[-1].passed:
                break
        else:
            found = "; ".join(f"{check.form} KL {check.kl:.4f}, same {check.same:.1%}" for check in tried)
            raise BackendError(f"{artifact.name}: no form computes here what the weights do ({found})")
        _describe(work, artifact, tried)
        shutil.rmtree(target, ignore_errors=True)
        work.rename(target)
    except OSError as error:
        raise MasaError(
            f"{target}: cannot be written ({error.strerror or error}); the shipped form still works"
        ) from None
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return load_artifact(target)


def _check(
    folder: Path, form: str, samples: list[tuple[list[int], list[int]]], expected: list[Array], threads: int | None
) -> Check:
    import numpy as np

    backend = _open(folder, threads)
    try:
        divergence, same = [], []
        begun, read = time.perf_counter(), 0
        for (prompt, answer), wanted in zip(samples, expected, strict=True):
            session = backend.session(slots=1, length=len(prompt) + len(answer) + 1)
            session.begin(0, prompt)
            read += len(prompt)
            found = _log_probabilities(session.step([(0, answer)], [len(answer)])[0])
            session.close()
            divergence.append((np.exp(wanted) * (wanted - found)).sum(-1))
            same.append(same_best(wanted, found))
        seconds = time.perf_counter() - begun
    finally:
        backend.close()
    all_same = np.concatenate(same)
    kl = float(np.concatenate(divergence).mean())
    return Check(form, round(kl, 6), round(float(all_same.mean()), 4), len(all_same), round(read / seconds))


def same_best(wanted: Array, found: Array) -> NDArray[np.bool_]:
    """Whether the best successor by `found` is one by `wanted`, too, or nearly (both tokens x vocabulary, in nats)."""
    import numpy as np

    chosen = np.take_along_axis(wanted, found.argmax(-1)[:, None], 1)[:, 0]
    return np.asarray(chosen >= wanted.max(-1) - TIE)


def _open(folder: Path, threads: int | None) -> OnnxBackend:
    from masa.backends.onnx import OnnxBackend

    return OnnxBackend.load(folder / _GRAPH, threads=threads, provider="cpu")


def _log_probabilities(logits: Array) -> Array:
    import numpy as np

    shifted = logits.astype(np.float64) - logits.max(-1, keepdims=True)
    found: Array = shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
    return found


def _describe(folder: Path, artifact: Artifact, tried: list[Check]) -> None:
    """Make an artifact of the folder: what was found, and the manifest, last."""
    write_atomic(folder / CHECKS_NAME, json.dumps([asdict(check) for check in tried], indent=1).encode())
    shipped = parse_json(read_bytes(artifact.path / MANIFEST_NAME))
    names = (_GRAPH, f"{_GRAPH}.data", TOKENIZER_NAME, CHECKS_NAME)
    files = {name: {"sha256": sha256_file(folder / name), "bytes": (folder / name).stat().st_size} for name in names}
    changed = {"kind": "onnx", "weights": _GRAPH, "adapter": None, "quantization": tried[-1].form, "files": files}
    manifest = {name: value for name, value in {**shipped, **changed}.items() if name != "packaged"}
    write_atomic(folder / MANIFEST_NAME, json.dumps(manifest, indent=1, ensure_ascii=False).encode())


def _samples(artifact: Artifact, model: Model, folder: Path) -> Iterator[tuple[list[int], list[int]]]:
    """Prompts of this rewriter and answers to them, as tokens: the first for smoothing, the others for checks."""
    from masa.backends.onnx_tokenizer import JsonTokenizer

    tokenizer = JsonTokenizer(folder / TOKENIZER_NAME, vocabulary=len(model.embedding), eos=model.eos)
    for card, texts, plan in _SAMPLES:
        skills = tuple(Skill(f"s{n}", title, text, when) for n, (title, text, when) in enumerate(texts))
        request, answer = Request(Group(None, skills), card), "\n".join(plan)
        if artifact.language == "wording":
            joined = " ".join(skill.principle for skill in skills)
            steps = [f"{n}. {skill.principle}" for n, skill in enumerate(skills, start=1)]
            request = Request(
                Group(None, (Skill("s", "Rule", joined),)), {}, operation="steps", keep=must_survive([joined])
            )
            answer = "\n".join(steps)
        prompt = render_prompt(request, artifact.language, artifact.chat_template, version=artifact.prompt_version)
        yield tokenizer.tokenize((*prompt.shared, *prompt.own)), tokenizer.tokenize((Segment(answer),))


_SAMPLES = (
    (
        {"family": "Qwen3", "parameter_count": "4B", "context_window": 32768, "weaknesses": "skips steps"},
        (
            ("Look before you buy", "Open the list, then compare prices; buy at most 3 items.", "When asked to shop"),
            ("Ask once", "If the date is missing, ask for it, because a wrong date cannot be undone.", ""),
            ("Write it down", "Add every change to `log.md` with its time, and never delete a line.", "After a change"),
        ),
        ("1 steps", "2 condition-action", "3 keep", "+ warn loop"),
    ),
    (
        {"family": "Gemma 3", "parameter_count": "1B", "weaknesses": "loses the thread in long text"},
        (
            ("Find the cause", "Read the whole error before you change code. Reproduce it with `pytest -x` first.", ""),
            (
                "Small commits",
                "Commit what works. Do not mix a rename with a fix, since reviewers get lost.",
                "",
            ),
            ("Stop in time", "If two tries failed, say what you tried and ask.", "When a command fails twice"),
            ("Name the file", "Tell which file and line you mean: `src/app.py:12`.", "In every answer"),
        ),
        ("1 shorten", "2 keep", "3 first emphasise", "4 keep"),
    ),
    (
        {"family": "SmolLM2", "parameter_count": "135M", "architecture": "dense-transformer"},
        (
            ("Check the fridge", "Go to fridge 1, open it, and take the apple. Keep it cold until it is served.", ""),
            ("One thing at a time", "Carry one object; put it down before you take another.", "In any room"),
            ("Finish", "Put the object where it was asked for, then say that you are done.", "At the end"),
        ),
        ("1 steps syntax", "2 keep", "3 merge-up", "+ warn undelivered"),
    ),
    (
        {"family": "Llama 3.2", "parameter_count": "3B", "weaknesses": "invents actions that do not exist"},
        (
            ("Answer from the page", "Quote the sentence that answers; if none does, say that the page does not.", ""),
            ("One search at a time", "Read all of a result before you search again.", "When looking something up"),
            ("Short questions", "Search for names and years; leave out words like `please` and `tell me`.", ""),
        ),
        ("1 keep", "2 condition-action", "3 limit 1", "+ warn invalid-action"),
    ),
    (
        {"family": "Qwen2.5-Coder", "parameter_count": "1.5B", "weaknesses": "learns by imitation"},
        (
            (
                "Reminders",
                "Put it on the list `home` unless work is named; times have the form 14:30.",
                "For reminders",
            ),
            ("Events", "An event takes an hour if no end is given, and 09:00 if no start is given.", "For events"),
            ("Messages", "Look the address up, then send; urgent ones have the priority `high`.", "For messages"),
        ),
        ("1 example", "2 keep", "3 first", "+ warn premature-stop"),
    ),
    (
        {"family": "Phi-4-mini", "parameter_count": "3.8B", "weaknesses": "does the same thing again and again"},
        (
            ("Refunds", "Refund up to 40 euros at once; above that ask for the receipt, and never promise a date.", ""),
            ("Tone", "Write in the customer's language. Apologise once, not twice.", "In every answer"),
            ("Hand over", "If a customer asks for a person, hand over with a summary of two lines.", ""),
            ("Close", "Ask whether anything is left before you close the ticket.", "At the end"),
        ),
        ("1 shorten emphasise", "2 keep", "3 keep", "4 drop", "+ warn revisiting"),
    ),
    (
        {"family": "Gemma 3", "parameter_count": "270M", "architecture": "dense-transformer", "context_window": 8192},
        (
            ("Sort the table", "Sort by date, newest first, before you add rows; keep the header.", "For tables"),
            ("Units", "Give weights in kg with one decimal, because the scale shows no more.", ""),
        ),
        ("1 limit 1", "2 merge-up", "+ warn wrong-object"),
    ),
)
"""Cards, skills and plans of our own; only how exactly they are computed matters, not what they say."""
