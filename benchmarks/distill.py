"""Fine-tuning speed: `masa distill` against TRL's `SFTTrainer` with its defaults.

Same weights (de-quantized SmolLM2-135M), same LoRA, same samples, same machine, one process after the other. Tokens are
counted alike on both sides: prompt and target of every sample that was learned from, as if each stood alone. TRL's
`max_length`, which cuts samples at 1,024 tokens, is lifted so that both learn from the same text; gradient
checkpointing (on by default in TRL) is also tried off, since a CPU with enough memory would not want it.

    pip install "trl>=1,<2" "datasets>=3,<6"
    python benchmarks/distill.py                       # on the small bootstrap corpus, which needs no data
    python benchmarks/distill.py --dataset data/plan --samples 96 --repeats 3
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "passive")

SIDES = ("masa", "trl", "trl, no gradient checkpointing")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", type=Path, help="made by masa distill dataset; default: plan-bootstrap-small")
    parser.add_argument("--samples", type=int, default=48)
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        dataset = options.dataset or small_dataset(Path(temporary))
        if options.side:
            print(json.dumps(measure(options.side, dataset, options.samples, options.threads)))
            return
        found: dict[str, list[dict[str, float]]] = {side: [] for side in SIDES}
        for _ in range(options.repeats):
            for side in SIDES:  # in turn, so that a busy spell does not fall on one side alone
                found[side].append(in_process(side, dataset, options))
                print(f"{side}: {found[side][-1]['tokens_per_second']:.0f} tokens/s", file=sys.stderr)
    medians = {side: statistics.median(run["tokens_per_second"] for run in runs) for side, runs in found.items()}
    ratios = {side: medians["masa"] / medians[side] for side in SIDES[1:]}
    if options.json:
        print(json.dumps({"median_tokens_per_second": medians, "masa_against": ratios, "runs": found}))
        return
    for side, ratio in ratios.items():
        print(f"masa distill against {side}: {ratio:.2f}x (medians of {options.repeats})")


def small_dataset(folder: Path) -> Path:
    path = folder / "small"
    words = ["distill", "dataset", "plan-bootstrap-small", "-o", str(path)]
    subprocess.run([sys.executable, "-m", "masa.cli", *words], check=True, capture_output=True)
    return path


def in_process(side: str, dataset: Path, options: argparse.Namespace) -> dict[str, float]:
    """A process for each measurement: neither side finds the other's memory or compiled kernels."""
    words = [sys.executable, __file__, "--side", side, "--dataset", str(dataset)]
    words += ["--samples", str(options.samples), "--threads", str(options.threads)]
    done = subprocess.run(words, check=True, stdout=subprocess.PIPE, text=True)
    result: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return result


def measure(side: str, folder: Path, count: int, threads: int) -> dict[str, float]:
    """Seconds from the end of the first optimizer step to the end of the last, and the tokens of those steps."""
    import torch

    from masa_training.dataset.folder import load_dataset
    from masa_training.distill.config import load_config
    from masa_training.encoding import encode_all

    torch.set_num_threads(threads)
    config = load_config("smollm2-135m-plan", [f"threads={threads}", "evaluations=1", "report_to=[]"])
    samples = load_dataset(folder).train[:count]
    from masa_training.bases import open_base

    base = open_base(config.base)
    encoded = encode_all(samples, base, config.context_length)
    run = ours if side == "masa" else theirs
    seconds, tokens = run(config, base, encoded, checkpointing=side == "trl")
    return {"tokens_per_second": tokens / seconds, "seconds": seconds, "tokens": tokens}


def stopwatch():  # type: ignore[no-untyped-def]
    from transformers import TrainerCallback

    class Stopwatch(TrainerCallback):
        def __init__(self) -> None:
            self.ends: list[float] = []

        def on_step_end(self, *_: object, **__: object) -> None:
            self.ends.append(time.perf_counter())

    return Stopwatch()


def ours(config, base, encoded, *, checkpointing):  # type: ignore[no-untyped-def]
    from transformers import TrainingArguments

    from masa_training.distill.model import trainable
    from masa_training.distill.packing import epoch_steps
    from masa_training.distill.trainer import Steps, StepTrainer, row_tokens

    steps = list(epoch_steps(encoded, batch_size=config.batch_size, row_tokens=config.row_tokens, seed=0, epoch=0))
    watch = stopwatch()
    with tempfile.TemporaryDirectory() as output:
        arguments = TrainingArguments(
            output, bf16=True, use_cpu=True, max_steps=len(steps), per_device_train_batch_size=1,
            save_strategy="no", report_to="none", disable_tqdm=True, remove_unused_columns=False,
        )  # fmt: skip
        trainer = StepTrainer(config=config, validation=(), model=trainable(base, config), args=arguments,
                              train_dataset=Steps(steps), callbacks=[watch])  # fmt: skip
        trainer.train()
    tokens = sum(sum(row_tokens(row)) for step in steps[1:] for row in step)
    return watch.ends[-1] - watch.ends[0], tokens


def theirs(config, base, encoded, *, checkpointing):  # type: ignore[no-untyped-def]
    import torch
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import AutoTokenizer
    from trl import SFTConfig, SFTTrainer

    rows = [
        {
            "input_ids": [*sample.prompt, *sample.target],
            "completion_mask": [0] * len(sample.prompt) + [1] * len(sample.target),
        }
        for sample in encoded
    ]
    tokenizer = AutoTokenizer.from_pretrained(base.path.parent, gguf_file=base.path.name)
    watch = stopwatch()
    with tempfile.TemporaryDirectory() as output:
        arguments = SFTConfig(
            output, use_cpu=True, bf16=True, max_length=None, num_train_epochs=1, shuffle_dataset=False,
            save_strategy="no", report_to="none", disable_tqdm=True, gradient_checkpointing=checkpointing,
        )  # fmt: skip
        trainer = SFTTrainer(
            model=base.model(torch.bfloat16), args=arguments, train_dataset=Dataset.from_list(rows),
            processing_class=tokenizer, callbacks=[watch],
            peft_config=LoraConfig(r=config.rank, lora_alpha=config.alpha, target_modules="all-linear"),
        )  # fmt: skip
        size = arguments.per_device_train_batch_size
        # In order, so that the tokens of the steps that are timed are known; what a step costs is the same.
        trainer._get_train_sampler = lambda *_: torch.utils.data.SequentialSampler(rows)
        trainer.train()
    return watch.ends[-1] - watch.ends[0], sum(len(row["input_ids"]) for row in rows[size:])


if __name__ == "__main__":
    main()
