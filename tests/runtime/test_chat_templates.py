"""Chat templates: the dialect they are written in, and where a model keeps its own."""

import json
from pathlib import Path
from typing import Any

import pytest
from gguf_samples import write_gguf

from masa.chat_templates import TemplateError, compile_template, stored_template
from masa.errors import FormatError

pytest.importorskip("jinja2")


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("a{% generation %}b{{ x }}{% endgeneration %}c", "ab<1>c"),
        (
            "{% for i in range(9) %}{% if i == 1 %}{% continue %}{% endif %}{% if i == 3 %}{% break %}{% endif %}"
            "{{ i }}{% endfor %}",
            "02",
        ),
        ("{% set n = namespace(k=0) %}{% generation %}{% set n.k = 2 %}{% endgeneration %}{{ n.k }}", "2"),
        ("{{ {'b': '<ü>', 'a': 1} | tojson }}", '{"b": "<ü>", "a": 1}'),
        ("{{ {'b': 1, 'a': 2} | tojson(sort_keys=True, separators=(',', ':')) }}", '{"a":2,"b":1}'),
        ("{{ [1] | tojson(indent=2) }}", "[\n  1\n]"),
        ("{{ strftime_now('%Y') | length }}", "4"),
        ("{% if true %}\n  x\n  {% endif %}\ny", "  x\ny"),
    ],
)
def test_the_dialect_of_hugging_face_renders(source: str, text: str) -> None:
    assert compile_template(source)(x="<1>") == text


@pytest.mark.parametrize("source", ["{% for %}", "{% generation %}x", "{% endgeneration %}", "{{", "{% unknown %}"])
def test_a_broken_template_is_one_sentence(source: str) -> None:
    with pytest.raises(TemplateError) as caught:
        compile_template(source)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("{{ raise_exception('roles must\n alternate') }}", "^roles must alternate$"),
        ("{{ messages[3].content }}", "no element 3|undefined"),
        ("{{ 1 / 0 }}", "division"),
        ("{{ x.__class__.__mro__ }}", "unsafe"),
        ("{{ x + 1 }}", "."),
    ],
)
def test_whatever_goes_wrong_in_a_template_is_one_error(source: str, reason: str) -> None:
    with pytest.raises(TemplateError, match=reason):
        compile_template(source)(x="a", messages=[])


@pytest.mark.parametrize(
    ("files", "found"),
    [
        ({"chat_template.jinja": "J", "tokenizer_config.json": {"chat_template": "T"}}, "J"),
        ({"tokenizer_config.json": {"chat_template": "T"}}, "T"),
        ({"chat_template.json": {"chat_template": "P"}, "tokenizer_config.json": {}}, "P"),
        (
            {
                "tokenizer_config.json": {
                    "chat_template": [{"name": "tool_use", "template": "U"}, {"name": "default", "template": "D"}, 7]
                }
            },
            "D",
        ),
        ({"tokenizer_config.json": {"chat_template": [{"name": "rag", "template": "R"}]}}, None),
        ({"tokenizer_config.json": {"chat_template": " "}}, None),
        ({"tokenizer_config.json": []}, None),
        ({}, None),
    ],
)
def test_a_folder_keeps_its_template_in_one_of_three_files(
    tmp_path: Path, files: dict[str, Any], found: str | None
) -> None:
    for name, content in files.items():
        (tmp_path / name).write_text(content if isinstance(content, str) else json.dumps(content))
    assert stored_template(tmp_path) == found


def test_a_gguf_keeps_its_template_as_it_is(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "m.gguf", {"tokenizer.chat_template": " {{ x }}\n"})
    assert stored_template(path) == " {{ x }}\n"
    assert stored_template(write_gguf(tmp_path / "n.gguf", {})) is None


def test_an_unreadable_settings_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "tokenizer_config.json").write_text("{")
    with pytest.raises(FormatError, match=r"tokenizer_config\.json: not valid JSON"):
        stored_template(tmp_path)
