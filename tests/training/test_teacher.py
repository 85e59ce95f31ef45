"""The offline teacher: symptoms show in turns, and every rewrite is new, follows from its plan and stays in bounds."""

from __future__ import annotations

from difflib import SequenceMatcher
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from masa.edits import EDITS, EditCall, apply_plan, check_plan
from masa.formats import load_bank
from masa.rewriter import Rewriter
from masa.skills import Group, Skill
from masa_training.bank_groups import WHOLE, part
from masa_training.environments import Task, open_environment
from masa_training.environments.solutions import facts_with_examples
from masa_training.instruments.config import BANKS, wording_of
from masa_training.rollouts import Episode, Job, Turn
from masa_training.teacher import SYMPTOMS, Asked, OperatorTeacher, Rewrite, Seen, TeacherError, attribute, symptoms_of
from masa_training.teacher.operators import REMEDIES, plan_of
from masa_training.teacher.protocol import words_of
from tests.support import ScriptedBackend, unopened_artifact

GROUP = next(group for group in load_bank(BANKS / "household" / "moderate.json").groups() if group.task_type == "heat")


def turn(action: str, observation: str = "Something.", *, changed: bool = True, valid: bool = True) -> Turn:
    return Turn(action, observation, changed, valid)


def seen(*turns: Turn, success: bool = False, goal: str = "put a hot mug in cabinet", **changes: object) -> Seen:
    values = {
        "steps": len(turns),
        "unchanged": sum(not one.changed for one in turns),
        "invalid": sum(not one.valid for one in turns),
        **changes,
    }
    episode = Episode(
        job=Job("a", "t", 0), task_type="heat", outcome="finished", success=success, turns=turns, **values
    )
    return Seen(Task("t", "heat", goal, "train"), episode)


WALK = (turn("go to drawer 1", "A spoon."), turn("go to shelf 1", "A mug 1."))
CASES = {
    "loop": seen(*WALK, *(turn("look", changed=False) for _ in range(3))),
    "invalid-action": seen(*WALK, turn("fetch mug", valid=False, changed=False), turn("go to shelf 2", "Nothing.")),
    "revisiting": seen(*WALK, *WALK, *WALK),
    "undelivered-object": seen(*WALK, turn("take mug 1 from shelf 1", "You take it."), turn("go to sink 1", "Empty.")),
    "answer-form": seen(turn("search Ada", "Ada is a weaver."), turn("answer I think that Ada is a weaver")),
    "wrong-object": seen(*WALK, turn("take spoon 1 from drawer 1", "You take it."), turn("go to cabinet 1", "Empty.")),
    "premature-stop": seen(turn("search Bob", "Bob is a cook."), turn("answer weaver"), goal="Who is Ada?"),
    "verbosity": seen(*WALK, completion_tokens=2000),
    "out-of-steps": seen(*WALK),
}


@pytest.mark.parametrize("symptom", SYMPTOMS)
def test_a_symptom_shows_in_the_turns(symptom: str) -> None:
    assert symptom in symptoms_of(CASES[symptom])


@pytest.mark.parametrize("symptom", sorted(set(SYMPTOMS) - {"out-of-steps"}))
def test_a_symptom_does_not_show_in_a_plain_walk(symptom: str) -> None:
    assert symptom not in symptoms_of(CASES["out-of-steps"])


def test_an_answer_that_was_read_is_no_premature_stop() -> None:
    read = seen(turn("search Ada", "Ada is a weaver."), turn("answer weaver"), goal="Who is Ada?")
    assert "premature-stop" not in symptoms_of(read)


def test_delivering_ends_the_holding() -> None:
    delivered = seen(*WALK, turn("take mug 1 from shelf 1"), turn("move mug 1 to cabinet 1"), turn("look"))
    assert "undelivered-object" not in symptoms_of(delivered)


def test_success_and_missing_episodes_show_nothing_and_do_not_count() -> None:
    won = seen(*WALK, *WALK, *WALK, success=True)
    missing = Seen(won.task, Episode(job=Job("a", "t", 1), task_type="heat", outcome="missing", reason="a server died"))
    assert symptoms_of(won) == symptoms_of(missing) == frozenset()
    found = attribute([won, missing, CASES["loop"], CASES["revisiting"]])
    assert found["loop"] == found["revisiting"] == 0.5
    assert attribute([won, missing]) == {}


def test_every_symptom_has_remedies_which_are_tried_in_order_marks_and_warnings_last() -> None:
    assert set(REMEDIES) == set(SYMPTOMS)
    for symptom in ("loop", "revisiting"):
        asked = Asked(group=GROUP, original=GROUP, environment="household", seen=(CASES[symptom],))
        rewrite = OperatorTeacher(together=1).rewrite(asked)
        assert rewrite.plan is not None and not rewrite.plan.warnings
        assert "steps" in {call.name for line in rewrite.plan.lines for call in line.edits}
        off = [
            bool(made.plan.warnings) or any(call.name == "emphasise" for line in made.plan.lines for call in line.edits)
            for made in everything(asked)
            if made.plan
        ]
        assert any(off) and off == sorted(off)
        assert rewrite.attribution[symptom] == 1.0
        assert f"{symptom} in 100%" in rewrite.note


def everything(asked: Asked, together: int = 1) -> list[Rewrite]:
    """All rewrites, each refused in its turn."""
    found: list[Rewrite] = []
    while len(found) < 500:
        refused = tuple((rewrite.group, "no better") for rewrite in found)
        try:
            found.append(OperatorTeacher(together).rewrite(Asked(**{**_fields(asked), "refused": refused})))
        except TeacherError as error:
            assert "was tried" in str(error)
            return found
    raise AssertionError("the teacher never runs out")


def _fields(asked: Asked) -> dict[str, object]:
    return {name: getattr(asked, name) for name in Asked.__dataclass_fields__}


@settings(max_examples=6, deadline=None)
@given(st.lists(st.sampled_from(sorted(CASES)), max_size=4), st.integers(60, 400))
def test_every_rewrite_is_new_follows_from_its_plan_and_keeps_within_the_cap(names: list[str], words: int) -> None:
    episodes = tuple(CASES[name] for name in names)
    asked = Asked(group=GROUP, original=GROUP, environment="household", seen=episodes, words=words)
    found = everything(asked)
    assert len({rewrite.group.skills for rewrite in found}) == len(found)
    for rewrite in found:
        assert rewrite.plan is not None
        check_plan(GROUP, rewrite.plan)
        assert apply_plan(GROUP, rewrite.plan).group.skills == rewrite.group.skills != GROUP.skills
        assert words_of(rewrite.group) <= words
    if words >= 400:
        assert {wording_of(skill) for rewrite in found for skill in rewrite.group.skills} >= {"terse", "stepwise"}


def test_another_wording_is_found_from_the_first_group_again() -> None:
    """Shortening cannot be undone by an edit, so the first group is a source as well."""
    terse = Group(GROUP.task_type, tuple(EDITS["limit"].apply(skill, "1") for skill in GROUP.skills))
    assert {wording_of(skill) for skill in terse.skills} == {"terse"}
    rewrites = everything(Asked(group=terse, original=GROUP, environment="household"))
    stepwise = [r for r in rewrites if {wording_of(skill) for skill in r.group.skills} == {"stepwise"}]
    assert any(rewrite.source == "original" for rewrite in stepwise)
    longest = max(stepwise, key=lambda rewrite: words_of(rewrite.group))
    assert longest.source == "original"


def test_after_rewrites_that_the_backbone_did_not_mind_comes_the_one_least_like_them() -> None:
    """Few edits take hold of a numbered list: not all that leave it as it is come before the one that cuts it."""
    numbered = Group("heat", tuple(EDITS["steps"].apply(skill) for skill in GROUP.skills))
    asked = Asked(group=numbered, original=numbered, environment="household", seen=(CASES["premature-stop"],))
    first = OperatorTeacher(together=1).rewrite(asked)
    refused = [(first.group, "indecisive")]
    tried = {" ".join(skill.principle for skill in group.skills) for group, _ in refused}
    minded, inert = (
        OperatorTeacher(together=1).rewrite(Asked(**{**_fields(asked), "refused": tuple(refused), "inert": inert}))
        for inert in (1, 2)
    )
    assert minded.group.skills != inert.group.skills

    def likeness(rewrite: Rewrite) -> float:
        text = " ".join(skill.principle for skill in rewrite.group.skills)
        return max(SequenceMatcher(None, text.split(), other.split()).ratio() for other in tried)

    assert likeness(inert) < likeness(minded)


def test_the_same_question_has_the_same_answer() -> None:
    asked = Asked(group=GROUP, original=GROUP, environment="household", seen=tuple(CASES.values()))
    assert OperatorTeacher().rewrite(asked) == OperatorTeacher().rewrite(asked)


def test_nothing_to_edit_is_said_in_words() -> None:
    bare = Group("heat", (Skill("a", "T", "Go."),))
    asked = Asked(group=bare, original=bare, environment="household", words=1)
    with pytest.raises(TeacherError, match="up to 2"):
        OperatorTeacher().rewrite(asked)


def test_a_worder_tries_operations_in_words_on_all_skills_then_on_one(tmp_path: Path) -> None:
    def words(prompt: str) -> str:
        skill = prompt.partition("Skill:\n")[2].partition("\n\n")[0]
        return "Example: the mug is hot. Put it down." if "Operation: example." in prompt else f"{skill} Mind that."

    artifact = unopened_artifact(tmp_path, language="wording")
    with Rewriter(artifact, lambda: ScriptedBackend(words)) as worder:
        teacher = OperatorTeacher(worder=worder)
        first = teacher.rewrite(Asked(group=GROUP, original=GROUP, environment="household"))
        assert first.plan is None and first.note.startswith("example in words")
        long = [skill for skill in GROUP.skills if len(skill.principle.split()) >= 8]
        told = [skill for skill in first.group.skills if "Example: the mug" in skill.principle]
        assert len(told) == len(long) > 1
        refused: list[tuple[Group, str]] = []
        notes = []
        while not any(" of " in note.partition(";")[0] for note in notes):
            asked = Asked(group=GROUP, original=GROUP, environment="household", refused=tuple(refused))
            made = teacher.rewrite(asked)
            assert made.group.skills not in [group.skills for group, _ in refused]
            refused.append((made.group, "worse"))
            notes.append(made.note)
        alone = len(notes) - 1
        assert any("in words" not in note for note in notes)  # edits come before words on one skill
        changed = [a != b for a, b in zip(refused[alone][0].skills, GROUP.skills, strict=True)]
        assert sum(changed) == 1


def test_every_worked_example_is_shown_once_by_the_skill_that_it_fits() -> None:
    facts = facts_with_examples(open_environment("assistant"), 1)
    whole = part(load_bank(BANKS / "assistant" / "concise.json"), WHOLE)
    plan = plan_of(whole, [EditCall("example")], facts)
    assert plan is not None
    shown = apply_plan(whole, plan, facts).group
    text = "\n".join(skill.principle for skill in shown.skills)
    assert [text.count(example) for example in facts.examples] == [1] * 6
    assert plan_of(shown, [EditCall("example")], facts) is None


def test_what_the_card_calls_for_is_tried_first_then_what_searches_accepted() -> None:
    facts = facts_with_examples(open_environment("filing"), 1)
    group = part(load_bank(BANKS / "filing" / "concise.json"), WHOLE)

    def first(**card: str) -> set[str]:
        asked = Asked(group=group, original=group, environment="filing", card=card, facts=facts, words=10_000)
        plan = OperatorTeacher().rewrite(asked).plan
        assert plan is not None
        return {call.name for line in plan.lines for call in line.edits}

    assert first(weaknesses="learns by imitation; overlooks instructions") == {"example", "keep"}
    assert first() == {"example", "keep"}
    assert "example" not in first(weaknesses="does things in the wrong order")
