"""Rows: what one forward pass computes, with the tokens that samples share computed once.

Samples of one group for different backbones have the same prompt up to the model card. A row holds such a prefix once,
and behind it one branch per sample; a branch sees the prefix and itself, at the positions it would have alone
(`masa_training.distill.model`). That saves most of the work of a prompt, and puts what differs, the card, side
by side in one step. Logits are computed at the target's positions only.

A *step* is what one optimizer update sees: rows with `batch_size` samples in all.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from masa_training.encoding import Encoded


@dataclass(frozen=True, slots=True)
class Branch:
    """What follows a prefix: the rest of a prompt, then a target that begins at `start` (0-based, in `tokens`).

    `worse` marks a branch that is not learned: the branch before it should be likelier. `learned` are the places in
    `tokens` that are learned, all of the target if empty. `admitted` is that of `masa_training.encoding.Encoded`.
    """

    id: str
    tokens: tuple[int, ...]
    start: int
    worse: bool = False
    admitted: tuple[tuple[int, ...], ...] = ()
    learned: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Tree:
    """A prefix and what branches off it. A sample alone is a tree with one branch."""

    prefix: tuple[int, ...]
    branches: tuple[Branch, ...]

    def __len__(self) -> int:
        return len(self.prefix) + sum(len(branch.tokens) for branch in self.branches)


@dataclass(frozen=True, slots=True)
class Row:
    """One forward pass: trees side by side, none of which sees another.

    Attributes:
        tokens: all tokens, tree by tree, prefix before branches.
        positions: of every token, in the sample it belongs to.
        layout: for every tree the length of its prefix, then of each branch.
        places: indices into `tokens` whose logits predict the next target token.
        labels: the token that each of them must predict.
        lengths: for every branch of the row, in order, how many target tokens it has.
        ids: of the samples, a branch each.
        against: for every branch -1, or the number of the branch that should be likelier than it.
        admitted: for every label the tokens that constrained decoding would have let come there; empty if unknown.
    """

    tokens: tuple[int, ...]
    positions: tuple[int, ...]
    layout: tuple[tuple[int, ...], ...]
    places: tuple[int, ...]
    labels: tuple[int, ...]
    lengths: tuple[int, ...]
    ids: tuple[str, ...]
    against: tuple[int, ...]
    admitted: tuple[tuple[int, ...], ...] = ()

    @property
    def samples(self) -> int:
        """Branches to learn; those to prefer others to are not counted."""
        return sum(other < 0 for other in self.against)


def lay_out(trees: Sequence[Tree]) -> Row:
    """The row that holds these trees.

    Raises:
        ValueError: if a target is empty, or is not preceded by a token of its own branch.
    """
    tokens: list[int] = []
    positions: list[int] = []
    layout: list[tuple[int, ...]] = []
    places: list[int] = []
    labels: list[int] = []
    lengths: list[int] = []
    against: list[int] = []
    admitted: list[tuple[int, ...]] = []
    for tree in trees:
        tokens += tree.prefix
        positions += range(len(tree.prefix))
        for branch in tree.branches:
            if not 0 < branch.start < len(branch.tokens):
                raise ValueError(f"sample {branch.id}: a branch needs a token before its target, and a target")
            offset = len(tokens)
            tokens += branch.tokens
            positions += range(len(tree.prefix), len(tree.prefix) + len(branch.tokens))
            learned = branch.learned or range(branch.start, len(branch.tokens))
            places += [offset + place - 1 for place in learned]
            labels += [branch.tokens[place] for place in learned]
            admitted += branch.admitted
            against.append(len(lengths) - 1 if branch.worse else -1)
            lengths.append(len(learned))
        layout.append((len(tree.prefix), *(len(branch.tokens) for branch in tree.branches)))
    ids = tuple(branch.id for tree in trees for branch in tree.branches)
    return Row(
        tokens=tuple(tokens),
        positions=tuple(positions),
        layout=tuple(layout),
        places=tuple(places),
        labels=tuple(labels),
        lengths=tuple(lengths),
        ids=ids,
        against=tuple(against),
        admitted=tuple(admitted) if len(admitted) == len(labels) else (),
    )


def families(samples: Sequence[Encoded]) -> list[list[Encoded]]:
    """Samples with the same prompt up to the card, in order of appearance."""
    found: dict[tuple[int, ...], list[Encoded]] = defaultdict(list)
    for sample in samples:
        found[sample.prompt[: sample.fork]].append(sample)
    return list(found.values())


OBJECTIVES = ("sft", "contrast", "preference")
"""What is learned: the targets; also that a target is likelier with its own card than with another ("contrast"), or
that it is likelier than another backbone's target ("preference")."""


def rows_of(
    family: Sequence[Encoded], row_tokens: int, *, objective: str = "sft", partners: random.Random | None = None
) -> list[Row]:
    """Rows of at most `row_tokens` tokens (a single longer sample gets a row of its own) for one family.

    With another objective than "sft", a sample is followed by a branch that it should beat: its target behind the card
    of another sample of the family, or that one's target behind its card. `partners` draws the other one.
    """
    fork = family[0].fork
    prefix = family[0].prompt[:fork]
    rows: list[Row] = []
    pending: list[Branch] = []
    for sample in family:
        unit = [_branch(sample, sample, fork)]
        others = [other for other in family if other.target != sample.target]
        if objective != "sft" and partners is not None and others:
            other = partners.choice(others)
            card, target = (other, sample) if objective == "contrast" else (sample, other)
            unit.append(_branch(card, target, fork, worse=True))
        if pending and len(Tree(prefix, (*pending, *unit))) > row_tokens:
            rows.append(lay_out([Tree(prefix, tuple(pending))]))
            pending = []
        pending += unit
    if pending:
        rows.append(lay_out([Tree(prefix, tuple(pending))]))
    return rows


def _branch(card: Encoded, target: Encoded, fork: int, *, worse: bool = False) -> Branch:
    """The prompt of one sample behind its fork, and the target of the same or another sample."""
    rest = card.prompt[fork:]
    learned = tuple(len(rest) + place for place in target.learned)
    return Branch(target.id, (*rest, *target.target), len(rest), worse, target.admitted, learned)


def epoch_steps(
    samples: Sequence[Encoded],
    *,
    batch_size: int,
    row_tokens: int,
    seed: int,
    epoch: int,
    share: bool = True,
    objective: str = "sft",
) -> Iterator[tuple[Row, ...]]:
    """The steps of one epoch: every sample once, in an order that depends on (seed, epoch) alone.

    A family is cut into pieces of at most `batch_size` samples and the pieces are shuffled; a step takes pieces until
    the next does not fit, so it has at most `batch_size` samples. Without `share`, every sample is a row of its own.
    """
    order = random.Random(f"{seed}/{epoch}")
    pieces: list[list[Encoded]] = []
    for family in families(samples) if share else [[sample] for sample in samples]:
        shuffled = order.sample(family, len(family))
        pieces += [shuffled[i : i + batch_size] for i in range(0, len(shuffled), batch_size)]
    order.shuffle(pieces)
    step: list[Row] = []
    room = batch_size
    for piece in pieces:
        if len(piece) > room:
            yield tuple(step)
            step, room = [], batch_size
        step += rows_of(piece, row_tokens, objective=objective, partners=order)
        room -= len(piece)
    if step:
        yield tuple(step)
