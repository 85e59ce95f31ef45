"""What the checks found, and the figures that thresholds bound."""

from __future__ import annotations

from dataclasses import dataclass, field

from masa_export.likeness import Likeness
from masa_export.verify.awareness import Awareness
from masa_export.verify.outputs import Outputs
from masa_export.verify.resources import Resources
from masa_export.verify.template import Template
from masa_export.verify.tokens import Tokens


@dataclass(slots=True)
class Findings:
    """Filled check by check; what could not be checked stays None.

    `problems` are failures that no figure tells, `notes` what a reader must know; a sentence each. `loaded` says
    whether there was a model at all.
    """

    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    loaded: bool = False
    tokens: Tokens | None = None
    template: Template | None = None
    likeness: Likeness | None = None
    outputs: Outputs | None = None
    awareness: Awareness | None = None
    resources: Resources | None = None

    def figures(self) -> dict[str, float | None]:
        """Values by name of figure, see `masa_export.verify.thresholds`; of checks that were made."""
        found: dict[str, float | None] = {"load": float(not self.loaded)}
        if self.tokens is not None:
            found["tokens"] = float(self.tokens.mismatches)
        if self.template is not None:
            found["template"] = float(len(self.template.problems))
        if self.likeness is not None:
            found |= {"kl": self.likeness.divergence, "top1": self.likeness.equal}
        if self.outputs is not None:
            made = self.outputs
            found |= {"valid_loss": made.valid_loss, "guard_loss": made.guard_loss, "distance": made.distance}
        if self.awareness is not None:
            found |= {"nll_loss": self.awareness.loss, "card_gap": self.awareness.kept}
        if self.resources is not None:
            cost = self.resources
            found |= {
                "size_mb": cost.bytes / 1e6,
                "memory_mb": cost.memory / 1e6,
                "load_seconds": cost.load_seconds,
                "bank_seconds": cost.bank_seconds,
                "prompt_speed": cost.prompt_speed,
                "decode_speed": cost.decode_speed,
            }
        return found
