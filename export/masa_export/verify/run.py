"""`masa export verify` as a function: every check in turn, then the verdicts."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

from masa.artifact import Artifact, find_artifact, load_artifact, read_manifest
from masa.backends import Backend, open_backend
from masa.engine import Engine
from masa.errors import ArtifactError, BackendError, MasaError
from masa_export.logits import pool
from masa_export.progress import Watch
from masa_export.verify.checkpoint import AskedCheckpoint, Reference, find_reference
from masa_export.verify.device_cost import measure_once, size_of
from masa_export.verify.outputs import Written, compare_outputs, write_outputs
from masa_export.verify.report import Report, Subject
from masa_export.verify.samples import EXAMPLES, Samples, read_samples
from masa_export.verify.scoring import LEAST_GAP, Asking, Score, margin, measure_awareness, score
from masa_export.verify.stored_report import asking_sha256, files_of
from masa_export.verify.template import compare_template
from masa_export.verify.thresholds import class_of, default_thresholds, judge, parse_thresholds
from masa_export.verify.tokens import compare_tokens


@dataclass(frozen=True, slots=True)
class Settings:
    """What the user may choose; see `masa export verify --help`."""

    prompts: Path | None = None
    base: str | None = None
    limit: int = 24
    wrong_cards: int = 2
    seed: int = 0
    dtype: str = "float32"
    threads: int | None = None
    bank: Path | None = None
    resources: bool = True
    thresholds: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Check:
    """What is to be verified and by what, before anything is loaded. `artifact` is None where it cannot be."""

    subject: Subject
    defaults: dict[str, float]
    given: dict[str, float | None]
    artifact: Artifact | None
    damage: str
    reference: Reference
    samples: Samples
    settings: Settings


def make_checks(artifacts: Sequence[str], checkpoint: Path, settings: Settings) -> list[Check]:
    """A plan for every artifact: everything but the weights is read.

    Raises:
        MasaError: if there is no such artifact, no such checkpoint or base, no samples, or a threshold is none. An
            artifact with a damaged file is no error here: that is a finding.
    """
    reference = find_reference(checkpoint, settings.base)
    language = reference.language or read_manifest(find_artifact(artifacts[0])).language
    samples = read_samples(settings.prompts, limit=settings.limit, seed=settings.seed, language=language)
    given = parse_thresholds(settings.thresholds)
    plans = []
    for artifact in artifacts:
        damage, found = "", None
        try:
            found = load_artifact(artifact)
        except ArtifactError as error:
            damage = str(error)
        manifest = found or read_manifest(find_artifact(artifact))
        weights = manifest.entries[manifest.weights]
        trained_on = None if reference.source is None else reference.source.checkpoint.base.sha256
        strictness = class_of(manifest.quantization, untouched=weights.sha256 == trained_on)
        subject = Subject(
            artifact=str(artifact),
            name=manifest.name,
            kind=manifest.kind,
            quantization=manifest.quantization,
            fingerprint=manifest.fingerprint,
            files=files_of(manifest),
            bytes=size_of(manifest),
            asking_sha256=asking_sha256(manifest),
            checkpoint=str(checkpoint),
            base=reference.name,
            dtype=settings.dtype,
            strictness=strictness,
            samples=samples.where,
            samples_sha256=samples.sha256,
            chosen=len(samples.chosen),
            available=samples.available,
            seed=settings.seed,
        )
        defaults = default_thresholds(strictness)
        plans.append(Check(subject, defaults, given, found, damage, reference, samples, settings))
    return plans


def verify_all(plans: Sequence[Check], watch: Watch | None = None) -> Iterator[Report]:
    """Verify artifacts against one checkpoint on the same samples, in turn; the checkpoint is asked only once.

    `plans` are those of `make_plans`. Every check that can be made is made; what is wrong with an artifact is in its
    report.

    Raises:
        MasaError: if the checkpoint cannot be loaded or asked.
    """
    watch = watch or Watch()
    asked = AskedCheckpoint(plans[0].reference, plans[0].settings.dtype, several=len(plans) > 1)
    with contextlib.closing(asked) as checkpoint:
        for plan in plans:
            yield _verify(plan, checkpoint, watch)


def _verify(plan: Check, checkpoint: AskedCheckpoint, watch: Watch) -> Report:
    begun = time.monotonic()
    report = Report(plan.subject)
    with ExitStack() as stack:
        if plan.artifact is None:
            report.problems.append(plan.damage)
        else:
            watch.stage("Loading the artifact …")
            try:
                backend = open_backend(plan.artifact, threads=plan.settings.threads)
            except (BackendError, ArtifactError) as error:
                report.problems.append(str(error))
            else:
                stack.callback(backend.close)
                _check(plan, plan.artifact, backend, checkpoint, report, watch)
    if plan.artifact is not None and report.tokens is not None and plan.settings.resources:
        watch.stage("Measuring speed and memory in a fresh process …")
        _measure(plan, plan.artifact, report)
    report.verdicts = judge(report.figures(), plan.defaults, plan.given)
    report.seconds = time.monotonic() - begun
    return report


def _check(
    plan: Check, artifact: Artifact, ours: Backend, checkpoint: AskedCheckpoint, found: Report, watch: Watch
) -> None:
    reference, samples = plan.reference, plan.samples
    asking = Asking(
        reference.language or artifact.language,
        reference.template or artifact.chat_template,
        reference.prompt_version or artifact.prompt_version,
    )
    watch.stage("Comparing tokens and chat template …")
    found.tokens = compare_tokens(ours, reference.base.tokenizer(), _texts(samples, asking))
    found.template = compare_template(artifact, reference, [(s.system, s.user) for s in samples.chosen if s.user])
    if not asking.template.stop:
        return  # told by the template; without an end nothing can be written
    if not checkpoint.loaded:
        watch.stage("Loading the checkpoint in transformers …")
    theirs = checkpoint.backend()
    if theirs.vocabulary != ours.vocabulary:
        found.problems.append(
            f"computes logits of {ours.vocabulary} tokens, the checkpoint of {theirs.vocabulary}; it is another model"
        )
        return
    written = _outputs(plan, artifact, ours, checkpoint, asking, found, watch)
    scores = _scores(plan, ours, checkpoint, asking, written, watch)
    if scores:
        found.likeness = pool([one.likeness for one in scores])
        found.awareness = measure_awareness(scores)
        if found.awareness.kept is None:
            found.notes.append(
                "Whether it still reads the card cannot be told: "
                + (
                    "no samples with other cards"
                    if found.awareness.wrong is None
                    else f"the checkpoint's own gap is below {LEAST_GAP:g} nats"
                )
            )
    else:
        found.problems.append("its logits could not be compared: no sample has a target in the language that it writes")


def _outputs(
    plan: Check,
    artifact: Artifact,
    ours: Backend,
    checkpoint: AskedCheckpoint,
    asking: Asking,
    found: Report,
    watch: Watch,
) -> dict[str, Written]:
    """Let both write, and return what the checkpoint wrote."""
    asked = [sample for sample in plan.samples.chosen if sample.request is not None]
    if not asked:
        found.notes.append("No sample tells its group and card: greedy outputs and card dependence were not compared")
        return {}
    as_trained = replace(
        artifact,
        adapter=None,  # the checkpoint is merged
        chat_template=asking.template,
        context_length=plan.reference.base.context_length,
        prompt_version=asking.version,
    )
    cautious = not artifact.trained

    def write(what: str, kind: Artifact, backend: Backend) -> dict[str, Written]:
        watch.stage(f"{what} writes {len(asked)} groups …")
        engine = Engine(kind, lambda: backend, asking.language, keep_warm=False)
        done = 0

        def step() -> None:
            nonlocal done
            done += 1
            watch.step(f"{what} writes", done, len(asked))

        template = kind.chat_template
        return write_outputs(
            engine, template, kind.prompt_version, asking.language, asked, cautious=cautious, step=step
        )

    theirs = checkpoint.backend()
    wanted = checkpoint.written((asking, cautious), lambda: write("The checkpoint", as_trained, theirs))
    written = write("The artifact", artifact, ours)
    watch.stage("Looking at what differs …")
    margins = (
        margin(theirs, sample, asking, wanted[sample.id].text, written[sample.id].text)
        for sample in asked
        if written[sample.id].text != wanted[sample.id].text
    )
    found.outputs = replace(compare_outputs(written, wanted), margins=tuple(gap for gap in margins if gap is not None))
    return wanted


def _scores(
    plan: Check, ours: Backend, checkpoint: AskedCheckpoint, asking: Asking, written: dict[str, Written], watch: Watch
) -> list[Score]:
    watch.stage("Comparing logits and likelihoods …")
    wrong = plan.samples.wrong_cards(plan.settings.wrong_cards, plan.settings.seed)
    scores = []
    for number, sample in enumerate(plan.samples.chosen):
        watch.step("Comparing logits and likelihoods", number, len(plan.samples.chosen))
        target = sample.target
        if target is None and sample.id in written:
            target = written[sample.id].text
        if target and sample.language in (None, asking.language):
            scores.append(score(ours, checkpoint, sample, target, asking, wrong.get(sample.id, ())))
    return scores


def _measure(plan: Check, artifact: Artifact, found: Report) -> None:
    bank = plan.settings.bank or EXAMPLES / "banks" / "household.json"
    if not bank.is_file():
        found.notes.append("Speed and memory were not measured: give a skill bank with --bank")
        return
    try:
        found.resources = measure_once(artifact, bank, threads=plan.settings.threads)
    except MasaError as error:
        found.problems.append(str(error))


def _texts(samples: Samples, asking: Asking) -> list[str]:
    """Every piece of text that the samples are made of."""
    texts: dict[str, None] = {}
    for sample in samples.chosen:
        prompt = sample.prompt(asking.language, asking.template, asking.version, None)
        for segment in (*prompt.shared, *prompt.own):
            if not segment.control:
                texts[segment.text] = None
        if sample.target:
            texts[sample.target] = None
    return list(texts)
