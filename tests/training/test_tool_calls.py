"""Calls of tools in what models write."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from masa.constraint import Constraint
from masa_training.agents import parse_call
from masa_training.environments.tool_calls import Call, as_integer, call_grammar, problem_of, read_call
from tests.support import byte_tokenizer

CALL = '{"name": "add", "arguments": {"item": "a {b} (c)", "count": 2}}'
WANTED = Call("add", {"item": "a {b} (c)", "count": 2})
TOOL = {
    "type": "function",
    "function": {
        "name": "add",
        "description": "",
        "parameters": {
            "type": "object",
            "properties": {
                "item": {"type": "string"},
                "count": {"type": "integer"},
                "shop": {"type": "string", "enum": ["big_shop", "market"]},
            },
            "required": ["item", "count"],
        },
    },
}


@pytest.mark.parametrize(
    "text",
    [
        CALL,
        f"<tool_call>\n{CALL}\n</tool_call>",
        f"```json\n{json.dumps(json.loads(CALL), indent=2)}\n```",
        f"I will add it (now).\n{CALL}\nDone.",
        f"{{not this}} {{}} {CALL}",
        CALL.replace("arguments", "parameters"),
        json.dumps({"name": "add", "arguments": json.dumps(WANTED.arguments)}),
        json.dumps({"type": "function", "function": json.loads(CALL)}),
        'add(item="a {b} (c)", count=2)',
        "So: `add(item='a {b} (c)', count=2)`",
        f"{CALL}\n{CALL.replace('2', '3')}",
    ],
)
def test_a_call_is_found_however_it_is_written(text: str) -> None:
    found = read_call(text)
    assert found is not None and found[0] == WANTED
    assert parse_call(text)[0] == CALL


@pytest.mark.parametrize(
    "text",
    ["", "Nothing to do.", "{", '{"name": 3}', '{"arguments": {}}', "add(", "add(1, 2)", "f(x)(y)"],
)
def test_where_there_is_no_call_the_text_stays(text: str) -> None:
    assert read_call(text) is None
    assert parse_call(text) == (text.strip(), text.strip())


@given(st.text(max_size=80))
def test_any_text_is_read_without_harm(text: str) -> None:
    found = read_call(text)
    assert found is None or 0 < found[1] <= len(text)


@given(st.dictionaries(st.text(min_size=1, max_size=5), st.one_of(st.text(max_size=9), st.integers()), max_size=3))
def test_what_is_written_is_read_back(arguments: dict[str, object]) -> None:
    call = Call("do", arguments)
    assert read_call(call.text) == (call, len(call.text))


def test_what_the_agent_said_ends_with_its_first_call() -> None:
    text = f"<tool_call>\n{CALL}\n</tool_call>\n<tool_call>\n{CALL}\n</tool_call>"
    assert parse_call(text)[1] == f"<tool_call>\n{CALL}\n</tool_call>"


@pytest.mark.parametrize(
    ("name", "arguments", "problem"),
    [
        ("add", {"item": "x", "count": 2}, None),
        ("add", {"item": "x", "count": "2", "shop": "Big shop"}, None),
        ("put", {}, "no tool put; there are add"),
        ("add", {"item": "x"}, "also needs count"),
        ("add", {"item": "x", "count": 2, "colour": "red"}, "no argument colour; it has item, count, shop"),
        ("add", {"item": "x", "count": "two"}, "count must be a whole number"),
        ("add", {"item": "x", "count": True}, "count must be a whole number"),
        ("add", {"item": ["x"], "count": 2}, "item must be a text"),
        ("add", {"item": " ", "count": 2}, "item must be a text"),
        ("add", {"item": "x", "count": 2, "shop": "kiosk"}, "shop must be one of big_shop, market"),
    ],
)
def test_what_a_tool_does_not_understand_is_told(name: str, arguments: dict[str, object], problem: str | None) -> None:
    found = problem_of(Call(name, arguments), [TOOL])
    assert found is None if problem is None else found is not None and problem in found


def test_whole_numbers_may_be_written_out() -> None:
    values = [3, 3.0, "3", " 3 % ", "three", 3.5, None, True, "-3"]
    assert [as_integer(value) for value in values] == [3, 3, 3, 3, None, None, None, None, None]


def test_the_grammar_is_of_calls_as_they_are_spelt_and_of_nothing_else() -> None:
    def reads(text: str) -> bool:
        constraint = Constraint(byte_tokenizer(), call_grammar([TOOL]))
        for byte in text.encode():
            if not constraint.allows(byte):
                return False
            constraint.advance(byte)
        return constraint.complete

    assert reads(CALL)
    assert reads('{"name": "add", "arguments": {"item": "ü", "count": 12, "shop": "market"}}')
    for wrong in ("add", "{}", CALL.replace("add", "put"), CALL.replace("2", '"2"'), CALL[:-1], CALL + " "):
        assert not reads(wrong)
    assert not reads('{"name": "add", "arguments": {"item": "x", "count": 1, "shop": "kiosk"}}')
    assert not reads('{"name": "add", "arguments": {"item": "x"}}')
