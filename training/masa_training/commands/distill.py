"""`masa distill`: fine-tune a rewriter on a data set."""

from __future__ import annotations

import json
from pathlib import Path

import click

from masa.cli.loading import complete_or
from masa_training.commands.training import finished, plan_json, plan_told, reporter, stopping, training_options


@click.command(
    "distill",
    epilog="""\b
Examples:
  masa distill dataset plan-bootstrap -o data/plan
  masa distill smollm2-135m-plan --dataset data/plan -o runs/plan
  masa distill smollm2-135m-plan --dataset data/plan -o runs/plan --resume
  masa distill qwen3-4b --dataset data/text -o runs/4b --set base=/models/Qwen3-4B --set reference=/models/q.gguf
  accelerate launch --config_file fsdp.yaml -m masa.cli distill qwen3-4b --dataset data/text -o runs/4b
""",
)
@click.argument("config", shell_complete=complete_or("dataset"))
@click.option(
    "--dataset", "dataset_folder", required=True, type=click.Path(path_type=Path), help="Made by masa distill dataset."
)
@training_options
@click.option("--seed", type=int, help="Short for --set seed=N.")
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

    `masa distill dataset` builds what it is fine-tuned on.

    Training survives kill -9: --resume continues from the last checkpoint. Ctrl-C stops it
    after the step, with a checkpoint. The run folder holds events.jsonl, logs for TensorBoard and, at the end,
    checkpoint/, which masa evaluate rewriter and masa export adapter take.
    """
    from masa_training.dataset.folder import load_dataset
    from masa_training.distill.config import load_config
    from masa_training.distill.run import distill
    from masa_training.distill.schedule import plan

    settings = load_config(config, [*overrides, *([f"seed={seed}"] if seed is not None else [])])
    dataset = load_dataset(dataset_folder)
    if dry_run:
        planned = plan(settings, dataset)
        click.echo(json.dumps(plan_json(planned)) if as_json else plan_told(planned))
        return
    with stopping(max_minutes) as stop:
        checkpoint = distill(
            settings,
            dataset,
            output,
            resume=resume,
            report=reporter(as_json),
            stop=stop,
        )
    from masa_training.distill import processes

    if processes.main():
        finished(checkpoint, f"masa evaluate rewriter {checkpoint.path} {dataset_folder}", as_json)
    processes.end()
