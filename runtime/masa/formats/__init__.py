"""Reading and writing banks, whatever they are kept in: skill bank JSON, SKILL.md folders, tool lists, templates.

A format's reader is imported where a bank is of that format: Markdown's are the slowest to import.
"""

from __future__ import annotations

import os
from pathlib import Path

from masa.errors import FormatError
from masa.skills import SkillBank

TEMPLATE_SUFFIXES = (".md", ".markdown", ".txt", ".prompt", ".tmpl", ".jinja", ".j2", ".mustache")
"""How the names of prompt templates end."""


def load_bank(path: str | os.PathLike[str], *, strict: bool = False) -> SkillBank:
    """Read a skill bank JSON file, a SKILL.md, a folder with SKILL.md files at any depth, a tool list or a template.

    One broken SKILL.md stops nothing: the bank's `problems` name it, and whatever else was passed over or read only by
    being lenient. `strict` refuses the bank instead, unless all of its problems are notes.

    Raises:
        FormatError: if nothing can be read there, or `strict` finds problems; it names all of them.
    """
    from masa.formats.skill_md_tree import is_skill_file

    where = Path(path)
    if where.is_dir() or (is_skill_file(where.name) and where.exists()):
        from masa.formats.skill_md import load_skill_folder

        bank = load_skill_folder(where)
    else:
        try:
            data = where.read_bytes()
        except FileNotFoundError:
            raise FormatError(f"{where}: no such file; give a skill bank JSON file or a SKILL.md folder") from None
        except OSError as error:
            raise FormatError(f"{where}: cannot be read ({error.strerror}); check its permissions") from None
        bank = _loads(data, where)
    found = [problem for problem in bank.problems if problem.severity != "note"]
    if strict and found:
        told = "".join(f"\n  {problem}" for problem in found)
        raise FormatError(f"{where}: refused, since it has {len(found)} problem{'s' * (len(found) > 1)}:{told}")
    return bank


def _loads(data: bytes, where: Path) -> SkillBank:
    from masa.files import ParseError, decode, parse_json
    from masa.formats.bank_json import loads_bank
    from masa.formats.tool_list import is_tool_list, loads_tool_list

    if where.suffix.lower() in TEMPLATE_SUFFIXES:
        from masa.formats.prompt_template import loads_template

        return loads_template(data, where)
    try:
        tools = is_tool_list(parse_json(data.removeprefix(b"\xef\xbb\xbf")))
    except ParseError:
        tools = False  # the bank's own reader says what is wrong
    return loads_tool_list(decode(data, str(where)), str(where)) if tools else loads_bank(data, where=str(where))


def dump(bank: SkillBank) -> bytes:
    """The bytes of a bank that is kept in one file, in the format that it was loaded from."""
    from masa.formats.bank_json import dump_bank, loaded_from

    if bank.source is None or loaded_from(bank) is not None:
        return dump_bank(bank)
    from masa.formats.prompt_template import PromptTemplate, dump_template
    from masa.formats.tool_list import ToolList, dump_tool_list

    if isinstance(bank.source, ToolList):
        return dump_tool_list(bank)
    return dump_template(bank) if isinstance(bank.source, PromptTemplate) else dump_bank(bank)


def save_bank(bank: SkillBank, path: str | os.PathLike[str]) -> None:
    """Write a bank in the format that it was loaded from, completely or not at all.

    A bank from a JSON file, or made in code, becomes a JSON file. One from SKILL.md files becomes a new folder: a copy
    of the one that it was loaded from, with the bank's sections. An original is never overwritten.

    Raises:
        FormatError: if the bank cannot be written in its format, `path` is the original, or a folder of it exists.
        WriteError: if the disk or the permissions do not allow it.
    """
    from masa.files import WriteError, reason, write_atomic
    from masa.formats.bank_json import loaded_from

    target, original = Path(path), loaded_from(bank)
    if bank.source is not None and original is None:
        from masa.formats.prompt_template import PromptTemplate
        from masa.formats.skill_md import SkillFolders, save_skill_folder
        from masa.formats.tool_list import ToolList

        if isinstance(bank.source, SkillFolders):
            try:
                save_skill_folder(bank, target)
            except OSError as error:
                message = f"{target}: cannot be written ({reason(error)}); check space and permissions"
                raise WriteError(message, error.errno) from error
            return
        if isinstance(bank.source, ToolList | PromptTemplate):
            original = Path(bank.source.where)
    if original is not None and target.exists() and target.samefile(original):
        raise FormatError(f"{target}: is the original, which is never overwritten; choose another path")
    write_atomic(target, dump(bank))
