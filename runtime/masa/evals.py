"""Evaluations of a skill: prompts, and how an answer is judged.

Read are `evals/evals.json` in the form that agentskills.io documents (skill-creation/evaluating-skills), JSON lines of
the same objects, and plain text with a prompt a paragraph. A check is an object with a `type` of `CHECKS`, as in
{"type": "contains", "value": "total: 12"}; a plain sentence, which is what the documented form has, is for a judge.
"""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from masa.errors import FormatError, MasaError, MissingExtraError
from masa.files import ParseError, parse_json, read_text

PLACE = "evals/evals.json"
"""Where a skill has its evaluations."""
CHECKS = ("contains", "not_contains", "regex", "json_schema", "command", "judge")
_KNOWN = ("id", "prompt", "expected_output", "files", "assertions", "expectations", "name")
_SANDBOX_SECONDS = 60.0
_FENCE = re.compile(r"```\w*\n(.*?)\n?```", re.DOTALL)

Judge = Callable[[str, str, str], bool]
"""From prompt, answer and statement to whether the statement holds."""


@dataclass(frozen=True, slots=True)
class Check:
    """One condition on an answer. `value` is a text, for json_schema an object or true or false."""

    kind: str
    value: Any


@dataclass(frozen=True, slots=True)
class Eval:
    """One prompt, with the contents of its files below it, and the checks of its answer."""

    key: str
    prompt: str
    checks: tuple[Check, ...]


def load_evals(path: Path, skill: Path) -> tuple[Eval, ...]:
    """The evaluations in a file; `files` are found in the folder `skill`.

    Raises:
        FormatError: naming the entry, if the file is of another form.
    """
    text = read_text(path)
    if path.suffix.lower() in (".txt", ".md"):
        prompts = [part.strip() for part in re.split(r"\n\s*\n", text) if part.strip()]
        entries: Any = [{"prompt": prompt} for prompt in prompts]
    else:
        try:
            if path.suffix.lower() == ".jsonl":
                entries = [parse_json(line) for line in text.splitlines() if line.strip()]
            else:
                content = parse_json(text)
                entries = content.get("evals") if isinstance(content, dict) else content
        except ParseError as error:
            raise FormatError(f"{path}: no JSON ({error}); correct it") from None
    if not isinstance(entries, list) or not entries:
        raise FormatError(f'{path}: no list of evaluations; write {{"evals": [{{"id": 1, "prompt": "…"}}, …]}}')
    found: list[Eval] = []
    for number, entry in enumerate(entries, start=1):
        where = f"{path}: evaluation {number}"
        if not isinstance(entry, dict) or not isinstance(entry.get("prompt"), str) or not entry["prompt"].strip():
            raise FormatError(f'{where}: has no "prompt" that is a text; write one')
        if unknown := [key for key in entry if key not in _KNOWN]:
            raise FormatError(f"{where}: unknown key {unknown[0]!r}; known: {', '.join(_KNOWN)}")
        key = str(entry.get("id", number))
        if key in {one.key for one in found}:
            raise FormatError(f"{where}: the id {key!r} is taken; give it another one")
        told = entry.get("assertions", entry.get("expectations", []))
        if not isinstance(told, list):
            raise FormatError(f"{where}: assertions must be a list; write it so")
        checks = tuple(_check(one, where) for one in told)
        if not checks and isinstance(entry.get("expected_output"), str):
            checks = (Check("judge", f"It is: {entry['expected_output']}"),)
        found.append(Eval(key, _with_files(entry, skill, where), checks))
    return tuple(found)


def _check(told: Any, where: str) -> Check:
    if isinstance(told, str) and told.strip():
        return Check("judge", told)
    if not isinstance(told, dict) or told.get("type") not in CHECKS or "value" not in told:
        raise FormatError(
            f'{where}: an assertion must be a sentence or {{"type": …, "value": …}} with a type of {", ".join(CHECKS)}'
        )
    kind, value = told["type"], told["value"]
    if kind == "json_schema" and not isinstance(value, dict | bool):
        raise FormatError(f"{where}: the value of json_schema must be an object; write the schema")
    if kind != "json_schema" and (not isinstance(value, str) or not value):
        raise FormatError(f"{where}: the value of {kind} must be a text; write one")
    if kind == "regex":
        try:
            re.compile(value)
        except re.error as error:
            raise FormatError(f"{where}: {value!r} is no regular expression ({error}); correct it") from None
    return Check(kind, value)


def _with_files(entry: Mapping[str, Any], skill: Path, where: str) -> str:
    """The prompt with the files below it."""
    names = entry.get("files", [])
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise FormatError(f"{where}: files must be a list of paths; write it so")
    parts = [entry["prompt"]]
    for name in names:
        path = next((p for p in (skill / name, skill / "evals" / name) if p.is_file()), skill / name)
        if not path.resolve().is_relative_to(skill.resolve()):
            raise FormatError(f"{where}: the file {name} is outside the skill; put it into {skill}")
        parts.append(f"File `{name}`:\n```\n{read_text(path).rstrip()}\n```")
    return "\n\n".join(parts)


def needs(evals: Sequence[Eval], kind: str) -> bool:
    """Whether any answer has a check of this kind."""
    return any(check.kind == kind for one in evals for check in one.checks)


def without(evals: Sequence[Eval], kind: str) -> tuple[tuple[Eval, ...], int]:
    """The evaluations without their checks of a kind, those alone that have others; and how many checks that were."""
    left = [Eval(one.key, one.prompt, tuple(c for c in one.checks if c.kind != kind)) for one in evals]
    gone = sum(len(one.checks) for one in evals) - sum(len(one.checks) for one in left)
    return tuple(one for one in left if one.checks), gone


def passed(check: Check, prompt: str, answer: str, *, sandbox: Sequence[str] = (), judge: Judge | None = None) -> bool:
    """Whether an answer meets a check.

    Args:
        sandbox: the words of a command; a `command` check is given to it as its last word and gets the answer on its
            standard input. Exit status 0 passes, so does none within a minute fail.

    Raises:
        MasaError: if the sandbox cannot be started, or there is no judge.
    """
    if check.kind == "contains":
        return str(check.value).casefold() in answer.casefold()
    if check.kind == "not_contains":
        return str(check.value).casefold() not in answer.casefold()
    if check.kind == "regex":
        return re.search(check.value, answer, re.MULTILINE) is not None
    if check.kind == "json_schema":
        return _fits(check.value, answer)
    if check.kind == "command":
        if not sandbox:
            raise MasaError("a check is a command, and no sandbox is named; name one with --sandbox")
        try:
            done = subprocess.run(
                [*sandbox, check.value],
                input=answer.encode(),
                capture_output=True,
                timeout=_SANDBOX_SECONDS,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return False
        except OSError as error:
            raise MasaError(f"{sandbox[0]}: the sandbox cannot be started ({error.strerror}); correct it") from None
        return done.returncode == 0
    if judge is None:
        raise MasaError("a check is a sentence, and no judge is named; name one with --judge")
    return judge(prompt, answer, check.value)


def _fits(schema: Any, answer: str) -> bool:
    try:
        import jsonschema
    except ModuleNotFoundError as error:
        raise MissingExtraError("a check by JSON schema", "check") from error
    fenced = _FENCE.search(answer)
    try:
        value = parse_json(fenced[1] if fenced else answer)
    except ParseError:
        return False
    try:
        return bool(jsonschema.Draft202012Validator(schema).is_valid(value))
    except Exception as error:  # the validator meets a broken schema only where it is used
        raise MasaError(f"the schema {json.dumps(schema)[:60]} is none ({error}); correct it") from None
