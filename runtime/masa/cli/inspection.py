"""`masa inspect`: what a file or folder is, and what masa sees in it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import click

from masa.cli import inspect_bank, inspect_model
from masa.cli.loading import complete_or, rewriter_option, strict_option
from masa.cli.output import write_json
from masa.errors import FormatError, MasaError
from masa.files import parse_json

Kind = Literal["bank", "skills", "artifact", "gguf", "huggingface", "card", "facts"]


@click.command(
    "inspect",
    short_help="Show what a bank, skill folder, artifact, model or card holds.",
    epilog="\b\nExamples:\n"
    "  masa inspect examples/banks/household.json\n"
    "  masa inspect examples/banks/household.json --edits --facts examples/facts/household.yaml\n"
    "  masa inspect examples/skills\n"
    "  masa inspect smollm2-135m\n"
    '  masa inspect select examples/banks/household.json --query "put a clean mug on the desk"\n'
    "  masa inspect model.gguf",
)
@click.argument("path", type=click.Path(), shell_complete=complete_or("select"))
@click.option("--edits", is_flag=True, help="For a bank: list the edits that each skill admits.")
@click.option("--facts", metavar="FILE", help="Interface facts, for --edits.", type=click.Path())
@click.option("--tokens/--no-tokens", default=True, help="Count tokens if the rewriter's weights are here.")
@rewriter_option
@strict_option
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout and nothing else.")
def command(
    path: str, edits: bool, facts: str | None, tokens: bool, rewriter: str, strict: bool, as_json: bool
) -> None:
    """Say what PATH is and what is in it: counts, tokens, protected text, problems.

    PATH is a skill bank JSON file, a SKILL.md or its folder, a rewriter's folder or name, a GGUF file, a model
    card, or a file of interface facts. `masa inspect select` prints those skills of a bank that fit a task.
    """
    from masa.facts import load_facts

    where = _named(path)
    kind = recognise(where)
    known = load_facts(facts) if facts is not None else None
    if kind in ("bank", "skills"):
        found = inspect_bank.examine(where, known, rewriter if tokens else None)
        if as_json:
            write_json({"kind": kind, **inspect_bank.as_json(found)})
        else:
            click.echo(inspect_bank.as_text(found, edits=edits))
        if strict and any(problem.severity != "note" for problem in found.problems):
            click.get_current_context().exit(1)
        return
    if edits:
        raise click.UsageError("--edits is for banks and skill folders.")
    lines: dict[str, Any] = inspect_model.examine(where, kind)
    if as_json:
        write_json({"kind": kind, **lines})
    else:
        click.echo(inspect_model.as_text(kind, where, lines))


def _named(path: str) -> Path:
    """The path, or the folder of the rewriter of that name where no such path exists."""
    from masa.artifact import list_artifacts

    where = Path(path)
    return where if where.exists() else list_artifacts().get(path, where)


def recognise(path: Path) -> Kind:
    """What `path` holds, by what is there and not by its name alone.

    Raises:
        MasaError: if it is nothing that masa knows, or nothing is there.
    """
    from masa.formats import TEMPLATE_SUFFIXES
    from masa.formats.gguf_header import is_gguf
    from masa.formats.skill_md_tree import is_skill_file
    from masa.manifest import MANIFEST_NAME

    if path.is_dir():
        return _folder(path)
    if not path.exists():
        raise FormatError(f"{path}: no such file or folder; check the path")
    if is_skill_file(path.name):
        return "skills"
    if path.name == MANIFEST_NAME:
        return "artifact"
    if path.name == "config.json":
        return "huggingface"
    if path.suffix.lower() == ".gguf" or is_gguf(path):
        return "gguf"
    suffix = path.suffix.lower()
    if suffix in TEMPLATE_SUFFIXES:
        return "bank"
    if suffix in (".yaml", ".yml"):
        return "facts" if _keys(path) & {"environment", "actions", "rules", "examples"} else "card"
    if suffix == ".json":
        keys = _keys(path)
        if keys & {"general_skills", "task_specific_skills", "query_type_skills"}:
            return "bank"
        if keys & {"environment", "actions"}:
            return "facts"
        return "card" if keys & {"family", "variant", "parameter_count", "num_layers"} else "bank"
    raise FormatError(
        f"{path}: neither a skill bank (.json), SKILL.md, GGUF file, card or facts (.yaml); give one of these"
    )


def _folder(path: Path) -> Kind:
    from masa.formats.skill_md import is_skill_folder
    from masa.manifest import MANIFEST_NAME

    if (path / MANIFEST_NAME).exists():
        return "artifact"
    if is_skill_folder(path):
        return "skills"
    if (path / "config.json").exists():
        return "huggingface"
    raise MasaError(
        f"{path}: a folder without {MANIFEST_NAME}, SKILL.md or config.json; give a rewriter, skill or model folder"
    )


def _keys(path: Path) -> set[str]:
    """The top-level keys of a YAML or JSON file; empty if it cannot be told. Its own reader then complains."""
    import yaml

    try:
        text = path.read_text("utf-8-sig")
        if path.suffix.lower() == ".json":
            content = parse_json(text)
            return set(content) if isinstance(content, dict) else set()
        root = yaml.compose(text, Loader=yaml.SafeLoader)  # libyaml crashes on deep nesting, this one raises
    except (OSError, ValueError, RecursionError, yaml.YAMLError):
        return set()
    return {str(key.value) for key, _ in root.value} if isinstance(root, yaml.MappingNode) else set()
