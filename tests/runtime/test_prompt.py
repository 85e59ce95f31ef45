"""The prompt, version 1: a golden text, and the separation of control tokens from skill text."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from masa.facts import ActionForm, Facts
from masa.prompt import CHATML, INSTRUCTIONS, Prompt, Request, Segment, render_prompt
from masa.skills import Group, Skill

GOLDEN = Path(__file__).parent / "golden"
FACTS = Facts(
    "kitchen",
    (ActionForm("go to {receptacle}"), ActionForm("open {receptacle}")),
    ("You can carry one object at a time.",),
)
GROUP = Group(
    "clean",
    (
        Skill("c1", "Wash at the sink", "Take the object. Go to the sink and clean it.", "The goal says clean"),
        Skill("c2", "Then deliver", "Carry it to the goal.\n\n- at once\n## not a heading", ""),
    ),
)
CARD = {"family": "Qwen3", "variant": "4B", "num_layers": 36, "multilingual": True, "weaknesses": "loops\nname: x"}


def flat(prompt: Prompt) -> str:
    return "".join(segment.text for segment in (*prompt.shared, *prompt.own))


@pytest.mark.parametrize("language", ["plan", "text"])
def test_version_1_is_frozen(language: str) -> None:
    """An artifact in the field was trained on exactly this text; a change needs a new prompt version."""
    request = Request(GROUP, CARD, "tidy up the kitchen", "kitchen", FACTS)
    assert flat(render_prompt(request, language, version=1)) == (GOLDEN / f"prompt-v1-{language}.txt").read_text()


@given(st.text(), st.text(), st.text())
def test_skill_card_and_task_text_is_never_control(title: str, principle: str, note: str) -> None:
    request = Request(Group(None, (Skill("i", title, principle),)), {"weaknesses": note}, task=note)
    prompt = render_prompt(request, "plan")
    controls = [segment.text for segment in (*prompt.shared, *prompt.own) if segment.control]
    assert controls == ["<|im_start|>", "<|im_end|>", "<|im_start|>", "<|im_end|>", "<|im_start|>"]


def test_groups_of_one_bank_share_everything_before_the_skills() -> None:
    one = render_prompt(Request(GROUP, CARD, "t", "e", FACTS), "plan")
    other = render_prompt(Request(Group(None, GROUP.skills[:1]), CARD, "t", "e", FACTS), "plan")
    assert one.shared == other.shared
    assert one.own != other.own


def test_the_card_comes_after_the_skills_and_cannot_pose_as_another_field() -> None:
    text = flat(render_prompt(Request(GROUP, CARD), "plan"))
    assert text.index("Wash at the sink") < text.index("Reader:\nfamily: Qwen3")
    assert "weaknesses: loops name: x\n" in text


def test_an_unknown_card_task_and_environment_leave_no_empty_lines() -> None:
    prompt = render_prompt(Request(GROUP, {}), "text")
    assert "Reader: unknown" in flat(prompt)
    assert prompt.shared == (*CHATML.before_system, Segment(INSTRUCTIONS["text"]), *CHATML.before_user)


def test_unknown_versions_and_languages_are_refused() -> None:
    with pytest.raises(ValueError, match="prompt version 2"):
        render_prompt(Request(GROUP, {}), "plan", version=2)
    with pytest.raises(ValueError, match="'poem'"):
        render_prompt(Request(GROUP, {}), "poem")
