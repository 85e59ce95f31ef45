"""Samples: round trip through JSON Lines, the chat form, and refusal of what was edited or torn."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from masa.errors import FormatError
from masa.facts import ActionForm, Facts
from masa.prompt import INSTRUCTIONS, Request
from masa.skills import Group, Skill
from masa_training.samples import Sample, dump_samples, dumps_sample, loads_sample, messages, read_samples

text = st.text(min_size=1, max_size=30).filter(lambda t: t.strip() != "")
skills = st.builds(Skill, text, text, text, st.text(max_size=10))
facts = st.none() | st.builds(
    Facts,
    text,
    st.tuples(st.builds(ActionForm, text)) | st.just(()),
    st.tuples(text) | st.just(()),
)
requests = st.builds(
    Request,
    st.builds(
        Group, st.none() | text.filter(lambda t: t != "general_skills"), st.tuples(skills) | st.tuples(skills, skills)
    ),
    st.dictionaries(st.sampled_from(["family", "strengths", "num_layers"]), text | st.integers(1, 99)),
    st.text(max_size=10),
    st.text(max_size=10),
    facts,
)
samples = st.builds(
    Sample, id=text, request=requests, language=st.sampled_from(["plan", "text"]), target=text, backbone=text
)


@given(samples)
@settings(max_examples=50, deadline=None)
def test_a_sample_survives_being_written_and_read(sample: Sample) -> None:
    assert loads_sample(dumps_sample(sample)) == sample


@given(samples)
@settings(max_examples=30, deadline=None)
def test_messages_are_the_prompt_and_the_target(sample: Sample) -> None:
    system, user, assistant = messages(sample)
    assert [m["role"] for m in (system, user, assistant)] == ["system", "user", "assistant"]
    assert system["content"] == INSTRUCTIONS[sample.language]
    assert sample.request.group.skills[0].title.replace("\\", "\\\\").replace("\n", "\\n") in user["content"]
    assert assistant["content"] == sample.target


def one() -> Sample:
    return Sample(
        "s1", Request(Group(None, (Skill("a", "Look", "Look first."),)), {"family": "F"}), "plan", "1 keep", "F"
    )


def test_a_line_whose_messages_were_edited_is_refused() -> None:
    value = json.loads(dumps_sample(one()))
    value["messages"][1]["content"] += "!"
    with pytest.raises(FormatError, match=r"line 3: the"):
        loads_sample(json.dumps(value), "x.jsonl, line 3")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda v: v.pop("request"), "missing 'request'"),
        (lambda v: v.update(prompt_version=99), "prompt version 99"),
        (lambda v: v["request"].update(skills=[["only an id"]]), "expected a list of 4 texts"),
        (lambda v: v.update(language="verse"), "unknown output language 'verse'"),
    ],
)
def test_what_is_no_sample_is_refused_in_words(change: object, message: str) -> None:
    value = json.loads(dumps_sample(one()))
    change(value)  # type: ignore[operator]
    with pytest.raises(FormatError, match=message):
        loads_sample(json.dumps(value))


def test_a_torn_line_names_its_file_and_number(tmp_path) -> None:  # type: ignore[no-untyped-def]
    path = tmp_path / "train.jsonl"
    path.write_bytes(dump_samples([one(), one()])[:-40])
    with pytest.raises(FormatError, match=r"train\.jsonl, line 2"):
        list(read_samples(path))
