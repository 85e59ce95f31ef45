"""transformers' Trainer, fed with steps of rows instead of padded batches.

Everything around the loss is the library's: optimizer, schedule, mixed precision, checkpoints and resuming, early
stopping, reporting, several processes under `accelerate`. A dataset item is one whole step, so gradient accumulation
happens inside `training_step`, and a step is the same whatever memory allows in one forward pass. Several processes
take a step each and average their gradients.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch.nn.functional import cross_entropy, logsigmoid
from torch.utils.data import Dataset, SequentialSampler
from transformers import Trainer, TrainingArguments

from masa_training.distill.config import DistillConfig
from masa_training.distill.packing import Row


def inputs_of(row: Row, device: torch.device | str = "cpu") -> dict[str, Any]:
    """The keyword arguments with which a model computes this row; its logits have shape (1, targets, vocabulary)."""
    return {
        "input_ids": torch.tensor([row.tokens], device=device),
        "position_ids": torch.tensor([row.positions], device=device),
        "logits_to_keep": torch.tensor(row.places, device=device),
        "layout": row.layout,
        "use_cache": False,
    }


@dataclass(frozen=True, slots=True)
class RowLoss:
    """Of one row: the summed NLL of its targets in nats, their number, and the summed loss of its comparisons.

    `constrained` is the summed NLL among the tokens that constrained decoding admits; the NLL itself where that is
    unknown, or any token may come.
    """

    nll: torch.Tensor
    constrained: torch.Tensor
    tokens: int
    comparison: torch.Tensor
    comparisons: int


def row_loss(logits: torch.Tensor, row: Row, *, beta: float) -> RowLoss:
    """The losses of a row from its logits (targets, vocabulary).

    Only branches that are to be learned count for the NLL. A comparison of a branch with a worse one is
    `−log σ(beta · (mean log-likelihood per token − that of the worse one))`, as in SimPO (Meng et al., 2024) without a
    margin: lengths differ by kinds of target, so sums would reward short ones.
    """
    labels = torch.tensor(row.labels, device=logits.device)
    per_token = cross_entropy(logits.float(), labels, reduction="none")
    pieces = torch.split(per_token, list(row.lengths))
    among = torch.split(_among_admitted(logits.float(), labels, row), list(row.lengths)) if row.admitted else pieces
    nll = per_token.new_zeros(())
    constrained = per_token.new_zeros(())
    comparison = per_token.new_zeros(())
    tokens = comparisons = 0
    for piece, admitted, other in zip(pieces, among, row.against, strict=True):
        if other < 0:
            nll = nll + piece.sum()
            constrained = constrained + admitted.sum()
            tokens += len(piece)
        else:
            comparison = comparison - logsigmoid(beta * (piece.mean() - pieces[other].mean()))
            comparisons += 1
    return RowLoss(nll, constrained, tokens, comparison, comparisons)


def _among_admitted(logits: torch.Tensor, labels: torch.Tensor, row: Row) -> torch.Tensor:
    """NLL of each label among the tokens admitted at its place."""
    most = max(map(len, row.admitted))
    # A place with fewer tokens is filled up with its first one, which then must not count.
    tokens = torch.tensor([[*found, *found[:1] * (most - len(found))] for found in row.admitted], device=logits.device)
    counts = torch.tensor([len(found) for found in row.admitted], device=logits.device)
    among = logits.gather(1, tokens)
    among = among.masked_fill(torch.arange(most, device=logits.device) >= counts[:, None], float("-inf"))
    return among.logsumexp(dim=1) - logits.gather(1, labels[:, None])[:, 0]


Step = tuple[Row, ...]


class HeldOut(NamedTuple):
    """Mean NLL per target token in nats: among all tokens, and among those that constrained decoding admits."""

    nll: float
    constrained: float


class Batch:
    """One step on its way through the Trainer, which must not look into it; it takes so many passes."""

    def __init__(self, rows: Step, passes: int) -> None:
        self.rows = rows
        self.passes = passes

    def __contains__(self, key: object) -> bool:
        return False

    def items(self) -> Iterator[tuple[str, Any]]:
        return iter(())


class Steps(Dataset[Batch]):
    """The steps of all epochs, in the order in which `processes` at a time are taken; the first ones fill the last up.

    Those taken together have the same number of passes, as processes wait for each other in each.
    """

    def __init__(self, steps: Sequence[Step], processes: int = 1) -> None:
        self._steps = steps
        self._processes = processes

    def __len__(self) -> int:
        return updates(len(self._steps), self._processes) * self._processes

    def __getitem__(self, index: int) -> Batch:
        began = index - index % self._processes
        return Batch(self._at(index), max(len(self._at(began + other)) for other in range(self._processes)))

    def _at(self, index: int) -> Step:
        return self._steps[index % len(self._steps)]


def updates(steps: int, processes: int) -> int:
    """How often the weights change over so many steps."""
    return math.ceil(steps / processes)


class Arguments(TrainingArguments):
    """Calls the CPU by the name under which torch can load an optimizer; accelerate numbers it for each process."""

    @property
    def device(self) -> torch.device:
        found: torch.device = super().device
        return torch.device("cpu") if found.type == "cpu" else found


class StepTrainer(Trainer):
    """Trains on `Steps`; the loss of a step is the mean NLL per target token over all its rows."""

    def __init__(self, *, config: DistillConfig, validation: Sequence[Row], **kwargs: Any) -> None:
        collator: Any = _only  # of a Batch, which is no dict
        super().__init__(data_collator=collator, **kwargs)
        self._config = config
        self._validation = validation
        self._computed = 0
        self._seen = 0
        self._since = time.monotonic()
        # The loss is normalized here, over the whole step.
        self.model_accepts_loss_kwargs = False

    def _get_train_sampler(self, train_dataset: Any = None) -> SequentialSampler:
        dataset: Any = train_dataset if train_dataset is not None else self.train_dataset
        return SequentialSampler(dataset)

    def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> torch.Tensor:
        rows: Step = inputs.rows
        model.train()
        targets = sum(
            length for row in rows for length, other in zip(row.lengths, row.against, strict=True) if other < 0
        )
        comparisons = sum(other >= 0 for row in rows for other in row.against)
        total = torch.zeros((), device=self.args.device)
        for number in range(inputs.passes):
            row = rows[min(number, len(rows) - 1)]
            with self._mixed_precision(), _adapter_casts(self.model):
                logits = model(**inputs_of(row, self.args.device)).logits[0]
            found = row_loss(logits, row, beta=self._config.objective_beta)
            loss = self._learned(found) / targets
            if comparisons:
                loss = loss + self._config.objective_weight * found.comparison / comparisons
            if number >= len(rows):  # another process has more rows: this one takes part, and learns nothing
                self.accelerator.backward(0 * loss)
                continue
            self.accelerator.backward(loss)
            total += loss.detach()
            self._computed += len(row.tokens)
            self._seen += sum(row_tokens(row))
        return total

    def _learned(self, found: RowLoss) -> torch.Tensor:
        """The part of the loss that learns targets."""
        share = self._config.constrained
        return found.nll if not share else (1 - share) * found.nll + share * found.constrained

    def evaluate(
        self, eval_dataset: Any = None, ignore_keys: Any = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        """Mean NLL per target token of the validation rows, in nats."""
        held_out = self.held_out_nll(self._validation)
        metrics = {f"{metric_key_prefix}_loss": held_out.nll}
        if self._config.constrained:
            metrics[f"{metric_key_prefix}_constrained"] = held_out.constrained
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def held_out_nll(self, rows: Sequence[Row]) -> HeldOut:
        """Mean NLL per target token of `rows`."""
        model = self.model
        assert model is not None
        model.eval()
        nll, constrained, tokens = 0.0, 0.0, 0
        with torch.inference_mode():
            for row in rows:
                with self._mixed_precision(), _adapter_casts(model):
                    logits = model(**inputs_of(row, self.args.device)).logits[0]
                found = row_loss(logits, row, beta=1.0)
                nll += float(found.nll)
                constrained += float(found.constrained)
                tokens += found.tokens
        return HeldOut(nll / tokens, constrained / tokens)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if "loss" in logs:
            elapsed = time.monotonic() - self._since
            # Seen: as if every sample had been computed alone; computed: what shared prefixes left of that.
            logs["tokens_per_second"] = round(self._seen / elapsed, 1)
            logs["computed_tokens_per_second"] = round(self._computed / elapsed, 1)
            self._seen = self._computed = 0
            self._since = time.monotonic()
        super().log(logs, start_time)

    def _mixed_precision(self) -> Any:
        untyped: Any = self
        return untyped.compute_loss_context_manager()

    def floating_point_ops(self, inputs: Any) -> int:
        return 0


def row_tokens(row: Row) -> Iterator[int]:
    """Length of every sample of a row that is learned, prompt and target, as if it stood alone."""
    branch = 0
    for prefix, *lengths in row.layout:
        for length in lengths:
            if row.against[branch] < 0:
                yield prefix + length
            branch += 1


def _adapter_casts(model: Any) -> Any:
    """Leave casting to autocast: peft would turn every input to fp32, which autocast turns back to bf16."""
    from peft import PeftModel
    from peft.helpers import disable_input_dtype_casting

    if isinstance(model, PeftModel) and torch.is_autocast_enabled(next(model.parameters()).device.type):
        return disable_input_dtype_casting(model)
    return nullcontext()


def _only(items: Sequence[Batch]) -> Batch:
    (step,) = items
    return step
