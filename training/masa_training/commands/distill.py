"""`masa distill`: fine-tune a rewriter on a data set."""

from __future__ import annotations

import json
import time
from pathlib import Path

import click

from masa.cli.progress import interrupts
from masa_training.commands.training import plan_told, reporter


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
        click.echo(plan_told(plan(settings, dataset), as_json))
        return
    end = None if max_minutes is None else time.monotonic() + 60 * max_minutes
    with interrupts("a checkpoint is kept, --resume goes on from it") as noted:
        checkpoint = distill(
            settings,
            dataset,
            output,
            resume=resume,
            report=reporter(as_json),
            stop=lambda: noted() or (end is not None and time.monotonic() >= end),
        )
    if as_json:
        click.echo(json.dumps({"checkpoint": str(checkpoint.path), **checkpoint.metrics}))
    else:
        click.echo(f"checkpoint: {checkpoint.path}")
        click.echo(f"next: masa evaluate-rewriter {checkpoint.path} {dataset_folder}")
