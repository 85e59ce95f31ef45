"""`masa distill`: fine-tune a rewriter on a data set."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from masa.cli.progress import interrupts


@click.command(
    "distill",
    epilog="""\b
Examples:
  masa dataset plan-bootstrap -o data/plan
  masa distill smollm2-135m-plan --dataset data/plan -o runs/plan
  masa distill smollm2-135m-plan --dataset data/plan -o runs/plan --resume
  masa distill qwen3-4b --dataset data/text -o runs/4b --set base=/models/Qwen3-4B --set reference=/models/q.gguf
  accelerate launch --config_file fsdp.yaml -m masa.cli distill qwen3-4b --dataset data/text -o runs/4b
""",
)
@click.argument("config")
@click.option(
    "--dataset", "dataset_folder", required=True, type=click.Path(path_type=Path), help="Made by masa dataset."
)
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path), help="Run folder.")
@click.option("--resume", is_flag=True, help="Go on with the run in the folder, after a kill too.")
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Change a setting; repeatable.")
@click.option("--seed", type=int, help="Short for --set seed=N.")
@click.option("--max-minutes", type=click.FloatRange(min=0), help="Stop after so long, to go on with --resume.")
@click.option("--dry-run", is_flag=True, help="Check everything, say what would be done, and stop.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON, and events as JSON lines on stderr.")
def command(
    config: str,
    dataset_folder: Path,
    output: Path,
    resume: bool,
    overrides: tuple[str, ...],
    seed: int | None,
    max_minutes: float | None,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Fine-tune a rewriter: CONFIG is a shipped configuration or a YAML file.

    Training survives kill -9: --resume goes on from the last checkpoint. Ctrl-C stops it
    after the step, with a checkpoint. The run folder holds events.jsonl, logs for TensorBoard and, at the end,
    checkpoint/, which masa evaluate-rewriter and masa export adapter take.
    """
    from masa_training.dataset.folder import load_dataset
    from masa_training.distill.config import load_config
    from masa_training.distill.planning import plan
    from masa_training.distill.run import distill

    settings = load_config(config, [*overrides, *([f"seed={seed}"] if seed is not None else [])])
    dataset = load_dataset(dataset_folder)
    if dry_run:
        planned = plan(settings, dataset)
        facts: dict[str, Any] = {
            "base": planned.base.name,
            "samples": planned.samples,
            "steps": len(planned.steps),
            "steps_per_epoch": planned.steps_per_epoch,
            "tokens": planned.tokens,
            "computed_tokens": planned.computed,
            "tokenizer_texts_compared": planned.compared,
        }
        if as_json:
            click.echo(json.dumps(facts))
            return
        steps = f"{len(planned.steps)} steps ({planned.steps_per_epoch} an epoch)"
        click.echo(f"{planned.samples} samples, {steps} on {planned.base.name}")
        click.echo(f"{planned.tokens:,} tokens, {planned.computed:,} after sharing prefixes")
        return
    end = None if max_minutes is None else time.monotonic() + 60 * max_minutes
    with interrupts("a checkpoint is kept, --resume goes on from it") as noted:
        checkpoint = distill(
            settings,
            dataset,
            output,
            resume=resume,
            report=_as_json if as_json else _Lines(),
            stop=lambda: noted() or (end is not None and time.monotonic() >= end),
        )
    if as_json:
        click.echo(json.dumps({"checkpoint": str(checkpoint.path), **checkpoint.metrics}))
    else:
        click.echo(f"checkpoint: {checkpoint.path}")
        click.echo(f"next: masa evaluate-rewriter {checkpoint.path} {dataset_folder}")


def _as_json(event: str, values: Mapping[str, Any]) -> None:
    click.echo(json.dumps({"event": event, **values}), err=True)


class _Lines:
    """Tells a person how far training is, a line an event."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._first: int | None = None

    def __call__(self, event: str, values: Mapping[str, Any]) -> None:
        if event in ("started", "resumed"):
            source = f" from {values['checkpoint']}" if values.get("checkpoint") else ""
            click.echo(f"{event}{source}: {values['samples']} samples, {values['steps']} steps", err=True)
        elif event == "evaluated":
            click.echo(f"  step {values['step']}: held-out NLL {values['nll']:.4f} nats per target token", err=True)
        elif event == "trained":
            step, total = values["step"], values["of"]
            if self._first is None:
                self._first, self._began = step, time.monotonic()
            elapsed = time.monotonic() - self._began
            left = elapsed / (step - self._first) * (total - step) if step > self._first else None
            ending = f", about {left / 60:.0f} min left" if left is not None else ""
            speed = values.get("tokens_per_second", 0)
            click.echo(f"  step {step}/{total}: loss {values['loss']:.4f}, {speed:.0f} tokens/s{ending}", err=True)
        elif event == "finished":
            click.echo(f"finished after {values['seconds'] / 60:.1f} min", err=True)
