"""The card of a data set: a page that tells a person what is in it, where it came from and what is not in it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from masa_training.dataset.folder import SPLITS, Dataset
from masa_training.samples import Sample
from masa_training.tables import cell, table

_MOST_ROWS = 24
_MOST_NAMES = 12
_LANGUAGES = {
    "text": "the text language: the target is the group, written out",
    "plan": "the plan language: the target is one line of edits per skill",
    "wording": "the wording language: the target is one skill's text, reworded as an operation says",
}


def data_card(dataset: Dataset) -> str:
    """The card as Markdown. The first line says whether the data are synthetic."""
    info = dataset.info
    synthetic = _synthetic(dataset)
    counts = ", ".join(f"{len(dataset.split(split)):,} {split}" for split in SPLITS)
    parts = [
        f"# Data set {cell(info.name)}{synthetic}",
        f"{info.summary}",
        f"Samples: {counts}. Output in {_LANGUAGES[info.language]}. Prompt version {info.prompt_version}, seed "
        f"{info.seed}. `train.jsonl`, `validation.jsonl` (early stopping) and `test.jsonl` hold one sample a line as "
        "chat messages; `dataset.json` is the record. Built by `masa distill dataset`.",
        "## Samples by source",
        _counts(dataset, "source", lambda sample: sample.source),
        "## Samples by environment",
        _counts(dataset, "environment", lambda sample: sample.environment or "none"),
        "## Samples by backbone",
        _counts(dataset, "backbone", lambda sample: sample.backbone),
        "## Samples by task type",
        _counts(dataset, "task type", lambda sample: sample.request.group.key),
    ]
    augmented = Counter(
        s.tags["augmentation"] for split in SPLITS for s in dataset.split(split) if "augmentation" in s.tags
    )
    if augmented:
        parts.append("Augmented inputs: " + ", ".join(f"{n} {name}" for name, n in sorted(augmented.items())) + ".")
    parts += ["## Lengths in tokens", *_lengths(info.tokens, info.context_length)]
    parts += ["## Hold-outs", _holdouts(info.holdouts, info.synthetic)]
    parts += ["## Origin and licence", _table(("origin", "licence"), sorted(info.origins.items()), 2)]
    parts += ["## Left out", _left_out(info.left_out)]
    return "\n\n".join(part for part in parts if part) + "\n"


def _synthetic(dataset: Dataset) -> str:
    if not dataset.info.synthetic:
        return ""
    made = sum(sample.synthetic for sample in dataset.train)
    if made == len(dataset.train):
        return " (synthetic: targets follow from stated rules, not from results)"
    return (
        f" (synthetic in part: the targets of {made:,} of {len(dataset.train):,} training samples follow from stated "
        "rules, not from results)"
    )


def _counts(dataset: Dataset, name: str, key: Callable[[Sample], str]) -> str:
    """Samples of each split by a key; of very many keys only their number is told."""
    by_split = {split: Counter(map(key, dataset.split(split))) for split in SPLITS}
    keys = sorted(set().union(*by_split.values()))
    if len(keys) > _MOST_ROWS:
        told = ", ".join(f"{len(by_split[split])} in {split}" for split in SPLITS)
        return f"{len(keys):,} different ones: {told}."
    rows = [(each, *(str(by_split[split][each]) for split in SPLITS)) for each in keys]
    return _table((name, *SPLITS), rows, 1)


def _lengths(tokens: Mapping[str, Any], context_length: int) -> list[str]:
    rows = []
    for split in SPLITS:
        told = tokens.get(split) or {}
        for what in ("prompt", "target", "total"):
            if what in told:
                figures = told[what]
                rows.append((split, what, *(f"{figures[name]:,}" for name in ("p50", "p95", "max"))))
    longest = "; ".join(
        f"{split} {cell(tokens[split]['longest'])}" for split in SPLITS if (tokens.get(split) or {}).get("longest")
    )
    return [
        f"Counted with the tokenizer of {cell(str(tokens.get('base', '')))}; the context is {context_length:,}.",
        _table(("split", "part", "p50", "p95", "max"), rows, 2),
        f"Longest samples: {longest}.",
    ]


def _holdouts(holdouts: Mapping[str, Any], synthetic: bool) -> str:
    """What the configuration holds out, and that it was checked."""
    lines = []
    for split, declared in holdouts.items():
        named = [
            f"{key.replace('_', ' ')} {', '.join(map(cell, values))}" for key, values in declared.items() if values
        ]
        lines.append(f"- {split}: {'; '.join(named) or 'nothing declared'}")
    if synthetic:
        lines.append(
            "\nWordings and behaviours of the cards, skills and interface facts of the held-out parts are disjoint "
            "from training; this was checked when the data set was built."
        )
        return "\n".join(lines)
    lines.append(
        "\nNothing that was found for a held-out cell occurs in training, as target or as input; this was checked "
        "when the data set was built."
    )
    return "\n".join(lines)


def _left_out(left_out: Mapping[str, Sequence[str]]) -> str:
    if not left_out:
        return "Nothing."
    lines = []
    for reason, names in sorted(left_out.items()):
        shown = ", ".join(map(cell, names[:_MOST_NAMES]))
        more = f" and {len(names) - _MOST_NAMES} more" if len(names) > _MOST_NAMES else ""
        lines.append(f"- {reason}: {len(names)} ({shown}{more})")
    return "\n".join(lines)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]], left: int) -> str:
    return "\n".join(table(head, rows, left=left)) if rows else "None."
