"""`masa evaluate rewriter`: whether a rewriter reads the card, and what it writes."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from masa.cli.output import clean, count, duration, write_json
from masa.cli.progress import interrupt_line, interrupts, show_line

if TYPE_CHECKING:
    from masa_training.evaluate.rewriter.results import Results
    from masa_training.evaluate.rewriter.running import Scope, Subject

CANCELLED = 130
_EVERY = 0.1


@click.command(
    "rewriter",
    short_help="Measure whether a rewriter reads the card, and what it writes.",
    epilog="\b\nExamples:\n"
    "  masa evaluate rewriter runs/plan-small datasets/bootstrap\n"
    "  masa evaluate rewriter smollm2-135m datasets/bootstrap --compare-base -o results/shipped\n"
    "  masa evaluate rewriter runs/text datasets/text --split validation --no-generate\n"
    "  masa evaluate rewriter runs/plan-small datasets/bootstrap --limit 60 --dry-run\n"
    "  masa evaluate rewriter runs/plan-small datasets/bootstrap -o results/a --resume --json | jq .models\n\n"
    "Exit codes: 0 done, 1 an error that the message explains, 2 wrong usage, 130 cancelled (results are kept).",
)
@click.argument("rewriter", metavar="CHECKPOINT|ARTIFACT")
@click.argument("dataset", metavar="DATASET", type=click.Path())
@click.option(
    "-o",
    "--output",
    metavar="FOLDER",
    type=click.Path(),
    help="Folder of the results. [default: evaluations/REWRITER-DATASET-SPLIT]",
)
@click.option("--split", default="test", show_default=True, metavar="NAME", help="train, validation or test.")
@click.option("--limit", type=click.IntRange(min=1), metavar="N", help="Look at N samples, of all trees or groups.")
@click.option(
    "--wrong-cards",
    type=click.IntRange(min=1),
    default=8,
    show_default=True,
    metavar="N",
    help="Most wrong cards per sample.",
)
@click.option(
    "--seed", type=click.IntRange(min=0), default=0, show_default=True, metavar="N", help="Seed of every choice."
)
@click.option("--no-generate", is_flag=True, help="Score only; let the rewriter write nothing.")
@click.option("--compare-base", is_flag=True, help="Also evaluate the untrained base model.")
@click.option(
    "--dtype",
    type=click.Choice(["bfloat16", "float16", "float32"]),
    default="bfloat16",
    show_default=True,
    help="Number format of a checkpoint.",
)
@click.option("--device", metavar="NAME", help="Where a checkpoint runs. [default: a GPU if there is one]")
@click.option("--threads", type=click.IntRange(min=1), metavar="N", help="CPU threads. [default: all cores]")
@click.option("--resume", is_flag=True, help="Continue with the results in FOLDER.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout and nothing else.")
@click.option("--dry-run", is_flag=True, help="Say how much work it would be, without doing it.")
@click.option("-q", "--quiet", is_flag=True, help="No progress and no report; errors only.")
def command(
    rewriter: str,
    dataset: str,
    output: str | None,
    split: str,
    as_json: bool,
    dry_run: bool,
    quiet: bool,
    resume: bool,
    **options: Any,
) -> None:
    """Measure a rewriter on held-out samples of DATASET, a folder made by `masa distill dataset`.

    CHECKPOINT is the folder that `masa distill` made, ARTIFACT a rewriter's name or folder. Each target is scored with
    the right card, wrong cards, no card, and the right card without strengths and weaknesses; then the rewriter writes
    every group itself. FOLDER gets results.jsonl (for every sample a line of scores and one of what was written, kept
    as they come), report.json and report.md.
    """
    from masa_training.dataset.folder import load_dataset
    from masa_training.evaluate.rewriter.results import Results
    from masa_training.evaluate.rewriter.running import check_fit, open_subject, scope_of

    loading = {name: options[name] for name in ("dtype", "device", "threads")}
    if options["threads"] and not dry_run:
        _limit_threads(options["threads"])
    subjects = [open_subject(rewriter, **loading)]
    if options["compare_base"]:
        subjects.append(open_subject(rewriter, base=True, **loading))
    data = load_dataset(dataset)
    check_fit(subjects[0], data)
    scope = scope_of(data, split, limit=options["limit"], wrong_cards=options["wrong_cards"], seed=options["seed"])
    settings = {
        "rewriter": subjects[0].artifact.name,
        "fingerprint": subjects[0].fingerprint,
        "dataset": data.info.name,
        "dataset_sha256": data.info.sha256,
        "split": split,
        "wrong_cards": scope.wrong_cards,
        "seed": scope.seed,
        # What decides the numbers of a checkpoint's logits; an artifact's are decided by its weights.
        "dtype": options["dtype"] if subjects[0].artifact.kind == "checkpoint" else None,
    }
    folder = Path(output or f"evaluations/{settings['rewriter']}-{data.info.name}-{split}")
    if dry_run:
        existing = Results(folder, settings, resume=True) if resume and folder.exists() else Results(None, settings)
        _tell_work(subjects, scope, existing, write=not options["no_generate"], as_json=as_json)
        return
    results = Results(folder, settings, resume=resume)
    cancelled = _run(subjects, scope, results, write=not options["no_generate"], quiet=quiet or as_json)
    found = _write_report(folder, scope, results, [s.model for s in subjects], write=not options["no_generate"])
    if as_json:
        write_json({"output": str(folder), **found})
    elif not quiet:
        click.echo(clean((folder / "report.md").read_text("utf-8")))
        click.echo(f"Results: {clean(str(folder))}")
    if cancelled:
        click.echo("Cancelled: the results so far are kept; the same command with --resume continues.", err=True)
        click.get_current_context().exit(CANCELLED)


def _run(subjects: list[Subject], scope: Scope, results: Results, *, write: bool, quiet: bool) -> bool:
    """Evaluate every subject; whether that was cancelled."""
    from masa_training.evaluate.rewriter.running import run

    with interrupts("what is scored is kept, --resume continues from it") as cancel:
        for subject in subjects:
            progress = _Progress(len(scope.samples), quiet=quiet)
            try:
                run(subject, scope, results, write=write, progress=progress, cancel=cancel)
            finally:
                progress.close()
            if cancel():
                return True
    return False


def _write_report(folder: Path, scope: Scope, results: Results, models: list[str], *, write: bool) -> dict[str, Any]:
    from masa.files import write_atomic
    from masa_training.evaluate.rewriter.report import report, to_markdown

    found = report(scope, results, models=models, write=write)
    write_atomic(folder / "report.json", (json.dumps(found, indent=1, ensure_ascii=False) + "\n").encode("utf-8"))
    write_atomic(folder / "report.md", to_markdown(found).encode("utf-8"))
    return found


def _tell_work(subjects: list[Subject], scope: Scope, results: Results, *, write: bool, as_json: bool) -> None:
    from masa_training.evaluate.rewriter.running import workload

    rows = {}
    for subject in subjects:
        work = workload(subject, scope, results, subject.tokenizer())
        rows[subject.model] = {
            "samples": work.samples,
            "cards": work.variants,
            "forward_passes": work.passes,
            "tokens_read": work.tokens,
            "longest": work.longest,
            "tokens_written": work.written if write else 0,
        }
    if as_json:
        write_json(rows)
        return
    for model, row in rows.items():
        text = (
            f"{model}: {count(row['samples'], 'sample')} under {count(row['cards'], 'card')}, "
            f"{row['forward_passes']:,} forward passes, "
            f"{row['tokens_read']:,} tokens to read, longest sequence {row['longest']:,}"
        )
        click.echo(text + (f"; then about {row['tokens_written']:,} tokens to write" if write else ""))
    click.echo("Dry run: nothing was computed.")


def _limit_threads(threads: int) -> None:
    import torch

    torch.set_num_threads(threads)


class _Progress:
    """One live line on a terminal, else a line every tenth of the samples; with the time that is left."""

    def __init__(self, samples: int, *, quiet: bool) -> None:
        self._quiet = quiet
        self._live = sys.stderr.isatty()
        self._every = max(1, samples // 10)
        self._calls = 0
        self._last = 0.0
        self._begun = time.monotonic()

    def __call__(self, doing: str, done: float, total: float) -> None:
        self._calls += 1
        if self._quiet:
            return
        elapsed = time.monotonic() - self._begun
        left = elapsed * (total - done) / done if done else 0.0
        text = f"{doing} · {100 * done / max(total, 1):.0f} % · {duration(max(left, 0.0))} left"
        if self._live and time.monotonic() - self._last >= _EVERY:
            self._last = time.monotonic()
            show_line(text)
        elif not self._live and self._calls % self._every == 0:
            click.echo(clean(text), err=True)

    def close(self) -> None:
        interrupt_line()
