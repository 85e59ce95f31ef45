"""What a row costs: the negative log-likelihood of its targets, and of preferring each to what it should beat."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.functional import cross_entropy, logsigmoid

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
