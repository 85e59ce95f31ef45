"""The success rates of a trial as a picture."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any


def plot(told: Mapping[str, Any]) -> bytes | None:
    """SR with intervals, a point an arm and a panel a backbone, as SVG; None where matplotlib is not installed.

    The random policy is a dashed line in every panel. Arms that nobody has begun to play are left out.
    """
    try:
        from matplotlib import rc_context
        from matplotlib.figure import Figure
    except ImportError:
        return None
    rows = [row for row in told["rows"] if row["SR"] and row["SR"]["estimate"] is not None]
    backbones = list(dict.fromkeys(row["backbone"] for row in rows if row["backbone"]))
    chance = next((row["SR"]["estimate"] for row in rows if row["backbone"] is None), None)
    if not backbones:
        return None
    most = max(sum(row["backbone"] == name for row in rows) for name in backbones)
    figure = Figure(figsize=(3.2 * len(backbones) + 1.5, 0.45 * most + 1.4), layout="constrained")
    panels = figure.subplots(1, len(backbones), sharex=True, sharey=False, squeeze=False)[0]
    for panel, name in zip(panels, backbones, strict=True):
        some = [row for row in rows if row["backbone"] == name][::-1]
        for place, row in enumerate(some):
            found = row["SR"]
            if found["low"] is not None:
                panel.plot([found["low"], found["high"]], [place, place], color="#4477aa", linewidth=2)
            panel.plot(found["estimate"], place, "o", color="#223355")
        panel.set_yticks(range(len(some)), [row["arm"] for row in some])
        panel.set_ylim(-0.6, len(some) - 0.4)
        panel.set_xlim(0, 1)
        panel.set_title(name, fontsize=10)
        panel.set_xlabel("SR")
        if chance is not None:
            panel.axvline(chance, color="#bb5566", linestyle="--", linewidth=1)
    out = io.BytesIO()
    # Letters as text, and the same bytes every time.
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "masa"}):
        figure.savefig(out, format="svg", metadata={"Date": None})
    return out.getvalue()
