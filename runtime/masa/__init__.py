"""Rewrites an agent's skills for the language model that will read them, on the device.

Importing this package loads a few modules of the standard library and nothing else. A public name
loads the module that owns it when it is first used.
"""

from __future__ import annotations

# Type checkers take this name as true. Importing it from `typing` would cost more than all the rest.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from masa.backbones import resolve_backbone
    from masa.cards import ModelCard, load_card
    from masa.errors import (
        ArtifactError,
        BackendError,
        CardError,
        FormatError,
        MasaError,
        MissingExtraError,
    )
    from masa.facts import Facts, load_facts
    from masa.formats import load_bank, save_bank
    from masa.formats.bank_json import dump_bank
    from masa.provenance import RewriteResult
    from masa.retrieval import select
    from masa.rewriter import Rewriter
    from masa.skills import Group, Problem, Skill, SkillBank

__version__ = "0.1.0"

__all__ = [
    "ArtifactError",
    "BackendError",
    "CardError",
    "Facts",
    "FormatError",
    "Group",
    "MasaError",
    "MissingExtraError",
    "ModelCard",
    "Problem",
    "RewriteResult",
    "Rewriter",
    "Skill",
    "SkillBank",
    "dump_bank",
    "load_bank",
    "load_card",
    "load_facts",
    "resolve_backbone",
    "save_bank",
    "select",
]

# Public name -> module that owns it (PEP 562). A test holds it equal to the block for type checkers.
_OWNERS = {
    "ArtifactError": "errors",
    "BackendError": "errors",
    "CardError": "errors",
    "Facts": "facts",
    "FormatError": "errors",
    "Group": "skills",
    "MasaError": "errors",
    "MissingExtraError": "errors",
    "ModelCard": "cards",
    "Problem": "skills",
    "RewriteResult": "provenance",
    "Rewriter": "rewriter",
    "Skill": "skills",
    "SkillBank": "skills",
    "dump_bank": "formats.bank_json",
    "load_bank": "formats",
    "load_card": "cards",
    "load_facts": "facts",
    "resolve_backbone": "backbones",
    "save_bank": "formats",
    "select": "retrieval",
}


def __getattr__(name: str) -> object:
    if name not in _OWNERS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    value: object = getattr(import_module(f"{__name__}.{_OWNERS[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
