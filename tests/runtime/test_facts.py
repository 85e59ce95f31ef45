"""Interface facts load from YAML and JSON; whatever else a file holds is refused in one sentence."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from masa.errors import FormatError
from masa.facts import ActionForm, Facts, load_facts

YAML = """
environment: household
actions:
  - go to {place}
  - form: take {object} from {place}
    meaning: pick it up
    example: take cup 1 from desk 1
rules:
  - You carry one object at a time.
examples:
  - |
    go to desk 1
    take cup 1 from desk 1
"""
FACTS = Facts(
    "household",
    (
        ActionForm("go to {place}"),
        ActionForm("take {object} from {place}", "pick it up", "take cup 1 from desk 1"),
    ),
    ("You carry one object at a time.",),
    ("go to desk 1\ntake cup 1 from desk 1",),
)


def test_yaml_and_json_give_the_same_facts(tmp_path: Path) -> None:
    import yaml

    (tmp_path / "f.yaml").write_text(YAML, "utf-8")
    (tmp_path / "f.json").write_text(json.dumps(yaml.safe_load(YAML)), "utf-8")
    assert load_facts(tmp_path / "f.yaml") == load_facts(tmp_path / "f.json") == FACTS


def test_only_the_environment_is_required(tmp_path: Path) -> None:
    path = tmp_path / "f.yaml"
    path.write_text("environment: empty\nactions:\n", "utf-8")
    assert load_facts(path) == Facts("empty")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("environment: x\naction: []", "unknown key 'action'; did you mean 'actions'?"),
        ("environment: x\nactions:\n- form: a\n  exmple: b", "actions[0]: unknown key 'exmple'"),
        ("environment: x\nactions:\n- {meaning: b}", "actions[0]: the key 'form' is missing"),
        ("environment: x\nrules: go", "rules: found a text where a list belongs"),
        ("environment: x\nrules: [1]", "rules[0]: found a number where a text belongs"),
        ("environment: x\nactions: ['']", "actions[0]: the text is empty"),
        ("environment: 3", "environment: found a number"),
        ("actions: []", "'environment' is missing"),
        ("- a", "found a list where a mapping"),
        ("", "found nothing where a mapping"),
        ("environment: [x", "not YAML"),
    ],
)
def test_anything_else_is_an_error_that_says_where(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "f.yaml"
    path.write_text(text, "utf-8")
    with pytest.raises(FormatError) as caught:
        load_facts(path)
    assert str(path) in str(caught.value)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_unreadable_files_are_errors(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match="cannot be read"):
        load_facts(tmp_path / "none.yaml")
    (tmp_path / "f.yaml").write_bytes(b"environment: \xff")
    with pytest.raises(FormatError, match="is not UTF-8"):
        load_facts(tmp_path / "f.yaml")
    (tmp_path / "f.json").write_text("{", "utf-8")
    with pytest.raises(FormatError, match="not JSON"):
        load_facts(tmp_path / "f.json")
