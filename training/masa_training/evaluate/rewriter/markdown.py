"""A report as Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from masa_training.tables import NOTHING, bracketed, cell, table

_ARMS = {
    "right": "the right card",
    "wrong": "wrong cards (average)",
    "contrast": "other cards of the same tree (average)",
    "none": "no card",
    "bare": "the right card without strengths and weaknesses",
}
_GENERATION = {
    "valid": "valid (finished and parses)",
    "guarded": "passes the guard",
    "targets_guarded": "targets that pass the guard",
    "groups_really_rewritten": "groups really rewritten",
    "skills_really_rewritten": "skills really rewritten",
    "exact": "plans exactly right",
}
_PLAIN = {
    "length_ratio": "length, output / source (characters)",
    "distance_to_source": "edit distance to the source (words, 0–1)",
    "distance_to_target": "edit distance to the target (words, 0–1)",
}


def to_markdown(report: Mapping[str, Any]) -> str:
    """The report for a reader; every number with its 95 % interval."""
    settings = report["settings"]
    lines = [f"# Evaluation of {settings['rewriter']} on {settings['dataset']}, {report['split']} split", ""]
    if report["partial"]:
        done = "; ".join(
            f"{name}: {model['scored']} scored, {model['written']} written" for name, model in report["models"].items()
        )
        lines += [f"**Partial: not all of {report['samples']} samples are done ({done or 'none yet'}).**", ""]
    if report["synthetic"]:
        lines += ["Synthetic data: targets follow from stated rules, not from results in an environment.", ""]
    lines += [
        f"{report['samples']} of {report['samples_in_split']} samples, {report['backbones']} backbones, "
        f"{report['clusters']} clusters; {report['wrong_cards_per_sample']} wrong cards a sample out of "
        f"{report['cards_in_pool']} cards, seed {settings['seed']}.",
        "Brackets: 95 % intervals, cluster bootstrap (clusters: trees of generated samples, else environment, backbone "
        "and group).",
        "",
    ]
    models = report["models"]
    names = list(models)
    for name in names:
        lines.append(f"- {name}: {models[name]['verdict']}")
    lines += ["", "## NLL per target token (nats)", ""]
    rows = [[label, *(_number(models[n]["nll"].get(arm), 3) for n in names)] for arm, label in _ARMS.items()]
    for arm in ("wrong", "contrast", "none", "bare"):
        rows.append([f"right − {arm}", *(_number(models[n]["nll"].get(f"right - {arm}"), 3) for n in names)])
    for arm in ("wrong", "contrast"):
        for which, word in (("", "average"), ("every ", "every card")):
            key = f"share right < {which}{arm}"
            rows.append([f"right below {arm} ({word})", *(_percent(models[n]["nll"].get(key)) for n in names)])
    lines += _listed(["", *names], [row for row in rows if any(one != NOTHING for one in row[1:])])
    for name in names:
        if models[name]["cards"]:
            lines += ["", f"## Right − wrong by wrong card ({name})", ""]
            lines += _listed(
                ["wrong card", "difference", "samples"],
                [[card, _number(v, 3), _count(v)] for card, v in models[name]["cards"].items()],
            )
        if models[name]["breakdown"]:
            lines += ["", f"## Breakdown ({name})", ""]
            lines += _listed(
                ["", "right", "wrong", "right − wrong", "right − contrast", "samples"],
                [
                    [
                        f"{tag}: {value}",
                        *(_number(v[arm], 3) for arm in ("right", "wrong", "right - wrong", "right - contrast")),
                        _count(v["right"]),
                    ]
                    for tag, values in models[name]["breakdown"].items()
                    for value, v in values.items()
                ],
            )
    written = [name for name in names if models[name]["generation"]]
    if written:
        lines += _generation([(name, models[name]["generation"]) for name in written])
    return "\n".join(lines) + "\n"


def _generation(models: Sequence[tuple[str, Mapping[str, Any]]]) -> list[str]:
    names = [name for name, _ in models]
    rows = [[label, *(_percent(m.get(key)) for _, m in models)] for key, label in _GENERATION.items()]
    rows += [[label, *(_number(m.get(key), 2) for _, m in models)] for key, label in _PLAIN.items()]
    rows.append(["different outputs", *(str(m["different_outputs"]) for _, m in models)])
    for key, label in (
        ("different", "pairs of cards with different outputs"),
        ("different_where_targets_differ", "… where the targets differ"),
        ("different_where_targets_agree", "… where the targets agree"),
    ):
        rows.append([label, *(NOTHING if m["pairs"][key] is None else f"{m['pairs'][key]:.0%}" for _, m in models)])
    lines = ["", "## What it writes (greedy)", ""]
    lines += _listed(["", *names], [row for row in rows if any(one != NOTHING for one in row[1:])])
    for name, m in models:
        if "edits" in m:
            lines += ["", f"## F1 by edit ({name})", ""]
            lines += _listed(
                ["edit", "F1", "right", "invented", "missed"],
                [
                    [edit, _number(v["f1"], 2), str(v["right"]), str(v["invented"]), str(v["missed"])]
                    for edit, v in m["edits"].items()
                ],
            )
        if m.get("exact_by"):
            lines += ["", f"## Plans exactly right ({name})", ""]
            lines += _listed(
                ["", "share", "samples"],
                [
                    [f"{tag}: {value}", _percent(v), _count(v)]
                    for tag, values in m["exact_by"].items()
                    for value, v in values.items()
                ],
            )
        if m["reasons"]:
            lines += ["", f"Why groups fell back ({name}):"]
            lines += [f"- {count} × {cell(reason)}" for reason, count in m["reasons"].items()]
    return lines


def _listed(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return table(head, rows, left=1)


def _number(value: Mapping[str, Any] | None, digits: int) -> str:
    return bracketed(value, f".{digits}f")


def _percent(value: Mapping[str, Any] | None) -> str:
    return bracketed(value, ".0%")


def _count(value: Mapping[str, Any] | None) -> str:
    return NOTHING if value is None else str(value["samples"])
