"""What errors quote of other people's files cannot disturb the terminal that shows them."""

from __future__ import annotations

import json
import pickle

import pytest

from masa.errors import ArtifactError, FormatError, MissingExtraError, one_line
from masa.formats.bank_json import loads_bank
from masa.manifest import parse_manifest


@pytest.mark.parametrize("odd", ["\x1b[2J", "\x00", "\r", "\u2028", "\u202e", "\ud800", "\x9b"])
def test_what_a_terminal_would_obey_is_escaped(odd: str) -> None:
    text = str(FormatError(f"a.json: the key {odd!s} is unknown"))
    assert text.isprintable() and text.startswith("a.json: the key \\") and text.endswith(" is unknown")
    text.encode("utf-8")


def test_errors_of_several_lines_keep_them() -> None:
    assert str(FormatError("two problems:\n  a\n  b")) == "two problems:\n  a\n  b"
    assert one_line("a\nb Ünï 🙂") == "a\\nb Ünï 🙂"


def test_errors_survive_another_process() -> None:
    error = pickle.loads(pickle.dumps(FormatError("a\tb")))
    assert isinstance(error, FormatError) and str(error) == "a\\tb"
    assert "pip install" in str(MissingExtraError("x", "llama"))


def test_names_of_a_file_are_quoted_in_one_line() -> None:
    with pytest.raises(ArtifactError) as refused:
        parse_manifest(json.dumps({"format": 1, "prompt_version": 1, "a\nb": 1}).encode(), "manifest.json")
    assert str(refused.value).isprintable()
    with pytest.raises(FormatError) as refused:
        loads_bank(json.dumps({"task_specific_skills": {"a\r\nb": [3]}}).encode())
    assert str(refused.value).isprintable()
