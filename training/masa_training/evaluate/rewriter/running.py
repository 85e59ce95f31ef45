"""An evaluation run: which samples under which cards, how much work that is, and the work itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from masa.artifact import Artifact, load_artifact
from masa.backends import Backend, open_backend
from masa.backends.tokenizing import Tokenizer
from masa.engine import Engine
from masa.errors import ArtifactError
from masa.prompt import ChatTemplate, render_prompt
from masa_training.checkpoint import RECORD, Checkpoint, base_of, read_checkpoint
from masa_training.dataset.folder import SPLITS, Dataset
from masa_training.encoding import SHORT_CARD
from masa_training.errors import TrainingError
from masa_training.evaluate.rewriter.arms import Pool, Variant, chosen, pool_of, variants
from masa_training.evaluate.rewriter.generation import generate
from masa_training.evaluate.rewriter.results import Results
from masa_training.evaluate.rewriter.scoring import SLOTS, Prompts, score, tokenized
from masa_training.samples import Sample

TRAINED, BASE = "trained", "base"


@dataclass(frozen=True, slots=True)
class Subject:
    """A rewriter under evaluation.

    Attributes:
        model: "trained", or "base" for the same base model without the training.
        artifact: what it says of itself; for a checkpoint one without files.
        fields: the fields of a card that it was trained to read; None for all.
        open: loads the model, with its adapter.
        tokenizer: loads what tokenizes for it and nothing else.
        fingerprint: of the trained rewriter, also for its base.
    """

    model: str
    artifact: Artifact
    fields: tuple[str, ...] | None
    open: Callable[[], Backend]
    tokenizer: Callable[[], Tokenizer]
    fingerprint: str

    @property
    def template(self) -> ChatTemplate:
        return self.artifact.chat_template


def open_subject(
    spec: str, *, base: bool = False, dtype: str = "bfloat16", device: str | None = None, threads: int | None = None
) -> Subject:
    """The rewriter in a checkpoint folder, or the artifact of that name or in that folder; no weights are loaded yet.

    With `base` it is its untrained base model. `dtype` and `device` are for checkpoints, `threads` for artifacts.

    Raises:
        TrainingError: if it is neither, or has no base to compare with, or this machine has no such device.
    """
    if (Path(spec) / RECORD).is_file():
        return _checkpoint(read_checkpoint(spec), base=base, dtype=dtype, device=device)
    try:
        artifact = load_artifact(spec)
    except ArtifactError as error:
        if Path(spec).is_dir():
            raise TrainingError(
                f"{spec}: neither a checkpoint (no {RECORD} in it) nor an artifact that can be loaded ({error})"
            ) from None
        raise
    return _artifact(artifact, base=base, threads=threads)


def _checkpoint(checkpoint: Checkpoint, *, base: bool, dtype: str, device: str | None) -> Subject:
    from masa_training.transformers_backend import checkpoint_artifact, device_of, open_checkpoint

    device_of(device)  # a mistake is told before anything is read
    artifact = checkpoint_artifact(checkpoint)
    fields = {"full": None, "short": SHORT_CARD, "none": ()}.get(str(checkpoint.training.get("card", "full")))
    return Subject(
        model=BASE if base else TRAINED,
        artifact=artifact,
        fields=fields,
        open=lambda: open_checkpoint(checkpoint, dtype=dtype, device=device, adapter=not base),
        tokenizer=lambda: base_of(checkpoint).tokenizer(),
        fingerprint=artifact.fingerprint,
    )


def _artifact(artifact: Artifact, *, base: bool, threads: int | None) -> Subject:
    if base and artifact.adapter is None:
        raise TrainingError(
            f"{artifact.path}: this artifact has no adapter, so its untrained base is not in it; "
            "leave out --compare-base"
        )
    judged = replace(artifact, adapter=None) if base else artifact

    return Subject(
        model=BASE if base else TRAINED,
        artifact=judged,
        fields=None,
        open=lambda: open_backend(judged, threads=threads),
        tokenizer=lambda: open_backend(judged, vocab_only=True),
        fingerprint=artifact.fingerprint,
    )


Progress = Callable[[str, float, float], None]
"""Called with what goes on, work done and work in all, in tokens."""

WRITTEN_COST = 6.0
"""A written token takes about as long as this many read ones; for estimates only."""


@dataclass(frozen=True, slots=True)
class Scope:
    """What an evaluation looks at. `samples` are those within the limit, `total` how many the split has."""

    split: str
    samples: tuple[Sample, ...]
    total: int
    pool: Pool
    wrong_cards: int
    seed: int

    def variants(self, sample: Sample, fields: Sequence[str] | None = None) -> tuple[Variant, ...]:
        return variants(sample, self.pool, wrong_cards=self.wrong_cards, seed=self.seed, fields=fields)


@dataclass(frozen=True, slots=True)
class Workload:
    """Work of scoring one model: samples left, their variants, forward passes, tokens, and the longest sequence."""

    samples: int
    variants: int
    passes: int
    tokens: int
    longest: int
    written: int
    """Tokens of the targets, about what generation will write."""


def scope_of(dataset: Dataset, split: str, *, limit: int | None = None, wrong_cards: int = 8, seed: int = 0) -> Scope:
    """The samples of a split to look at and the cards to try.

    Raises:
        TrainingError: if there is no such split, it is empty, or it knows one card only.
    """
    if split not in SPLITS:
        raise TrainingError(f"no split {split!r}; a data set has {', '.join(SPLITS)}")
    everything = dataset.split(split)
    if not everything:
        filled = [name for name in SPLITS if dataset.split(name)]
        raise TrainingError(
            f"{dataset.info.name}: its {split} split is empty; choose one of {', '.join(filled) or 'another data set'}"
        )
    pool = pool_of(everything, dataset.info.cards)
    if len(pool.readers) < 2:
        raise TrainingError(
            f"{dataset.info.name}: its {split} split knows one card only, so there is no wrong one to compare with; "
            "give a data set with several backbones"
        )
    return Scope(split, tuple(chosen(everything, limit, seed)), len(everything), pool, wrong_cards, seed)


def check_fit(subject: Subject, dataset: Dataset) -> None:
    """Make sure that rewriter and data set speak of the same thing.

    Raises:
        TrainingError: if language or prompt version differ.
    """
    artifact, info = subject.artifact, dataset.info
    if artifact.language != info.language:
        raise TrainingError(
            f"{artifact.name} writes the {artifact.language} language, the data set {info.name} is in the "
            f"{info.language} language; give one that fits"
        )
    if artifact.prompt_version != info.prompt_version:
        raise TrainingError(
            f"{artifact.name} reads prompt version {artifact.prompt_version}, the data set {info.name} is of version "
            f"{info.prompt_version}; build the data set again or train again"
        )


def workload(subject: Subject, scope: Scope, results: Results, tokenizer: Tokenizer) -> Workload:
    """How much there is left to score.

    Raises:
        TrainingError: naming the first sample that does not fit the context under one of the cards; nothing is cut.
    """
    counts = [0, 0, 0, 0, 0, 0]
    for sample in scope.samples:
        prompts = _prompts(subject, scope, sample, tokenizer)
        if prompts.longest > subject.artifact.context_length:
            raise TrainingError(
                f"sample {sample.id} has up to {prompts.longest} tokens under the cards of this evaluation, the "
                f"rewriter's context is {subject.artifact.context_length}; use a shorter card or leave the sample out"
            )
        counts[4] = max(counts[4], prompts.longest)
        if not results.generated(subject.model, sample.id):
            counts[5] += len(prompts.target)
        if not results.scored(subject.model, sample.id):
            new = (1, len(prompts.own), prompts.passes, prompts.computed)
            counts[:4] = [count + more for count, more in zip(counts, new, strict=False)]
    return Workload(*counts)


def run(
    subject: Subject,
    scope: Scope,
    results: Results,
    *,
    write: bool = True,
    progress: Progress = lambda doing, done, total: None,
    cancel: Callable[[], bool] = lambda: False,
) -> None:
    """Score every sample under every card and, with `write`, let the rewriter write its group.

    Adds to `results` sample by sample and leaves out what is there. Returns early after `cancel()`.
    """
    backend = subject.open()
    engine = Engine(subject.artifact, lambda: backend, subject.artifact.language, keep_warm=True)
    try:
        work = workload(subject, scope, results, backend)
        total = work.tokens + write * WRITTEN_COST * work.written
        done = 0.0
        for sample, tokens in _score_all(subject, scope, results, backend, work.longest):
            done += tokens
            progress(f"Scoring {subject.model}, sample {sample.id}", done, total)
            if cancel():
                return
        if not write:
            return
        left = [s for s in scope.samples if not results.generated(subject.model, s.id)]
        # Equal settings side by side, so that they share one instruction.
        left.sort(key=lambda s: (s.environment, s.request.environment, s.request.task, repr(s.request.facts)))
        each = WRITTEN_COST * work.written / max(len(left), 1)
        # Trained and untrained may choose among the same edits: only so are they compared.
        for sample, row in generate(engine, subject.template, left, fields=subject.fields, cancel=cancel):
            results.add([{"model": subject.model, "sample": sample.id, "generated": row}])
            done += each
            progress(f"Writing {subject.model}, sample {sample.id}", done, total)
    finally:
        engine.close()
        backend.close()


def _score_all(
    subject: Subject, scope: Scope, results: Results, backend: Backend, longest: int
) -> Iterator[tuple[Sample, int]]:
    left = [sample for sample in scope.samples if not results.scored(subject.model, sample.id)]
    if not left:
        return
    session = backend.session(slots=SLOTS, length=longest)
    try:
        for sample in left:
            prompts = _prompts(subject, scope, sample, backend)
            scores = score(session, prompts)
            named = zip(scope.variants(sample, subject.fields), scores, strict=True)
            results.add(
                {
                    "model": subject.model,
                    "sample": sample.id,
                    "variant": variant.key,
                    "arms": list(variant.arms),
                    "nll": found.nll,
                    "tokens": found.tokens,
                    "hits": found.hits,
                }
                for variant, found in named
            )
            yield sample, prompts.computed
    finally:
        session.close()


def _prompts(subject: Subject, scope: Scope, sample: Sample, tokenizer: Tokenizer) -> Prompts:
    asked = [
        render_prompt(variant.request, sample.language, subject.template)
        for variant in scope.variants(sample, subject.fields)
    ]
    return tokenized(asked, sample.target, tokenizer, subject.template)
