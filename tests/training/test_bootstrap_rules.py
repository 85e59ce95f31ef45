"""The stated rules, one by one, and the vocabulary that cards are made of."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from masa.cards import FIELDS
from masa.edits import WARN_KINDS
from masa.facts import ActionForm, Facts
from masa.group_rewrite import prepare
from masa.languages import MAX_EDITS_PER_LINE, MAX_WARNINGS, parse_plan, render_plan
from masa.prompt import Request
from masa.skills import Group, Skill
from masa_training.bootstrap import Traits, load_environments, load_vocabulary, needs_of, plan_for, traits_of
from masa_training.bootstrap.behaviours import CANCELLABLE, SPLITS, check_vocabulary, wording_pattern
from masa_training.bootstrap.cards import make_card
from masa_training.bootstrap.corpus import SkillGroup, kind_of
from masa_training.bootstrap.rules import NEEDS, TRANSFORMING, Size
from masa_training.errors import TrainingError

WORDY = Skill("a", "Doors", "Open the cabinet, because its door is shut. Then take the cup.", "In a kitchen.")
LONG = Skill("b", "Walk", "Go to the sink. Wash the cup. Go to the shelf. Put the cup there. Read the reply.", "")
PLAIN = Skill("c", "Cup", "Keep the cup upright.", "While you carry it.")
GROUP = Group(None, (WORDY, LONG, PLAIN))
FACTS = Facts("flat", (ActionForm("go {place}"), ActionForm("take {thing}")), (), ("> go sink\n> take cup",))


def plan(
    said: str = "", size: str = "large", *, facts: Facts | None = None, pretrained: bool = False, strong: str = ""
) -> str:
    traits = Traits(size, pretrained, frozenset(said.split()), frozenset(strong.split()))  # type: ignore[arg-type]
    return render_plan(plan_for(traits, GROUP, facts))


def test_a_large_tuned_reader_without_weaknesses_gets_everything_as_it_is() -> None:
    assert plan() == "1 keep\n2 keep\n3 keep"
    assert plan(size="unknown") == plan()


def test_size_asks_for_brevity_and_below_one_billion_for_order_too() -> None:
    assert plan(size="small") == "1 shorten\n2 keep\n3 keep"
    assert plan(size="tiny") == "1 shorten steps\n2 steps\n3 keep"


def test_a_strength_takes_back_what_follows_from_size_but_not_what_the_card_says() -> None:
    assert plan(size="small", strong="brevity") == plan()
    assert plan(size="small", said="brevity", strong="brevity") == plan(size="small")
    assert plan(pretrained=True, strong="demonstration") == plan()


def test_with_the_profile_first_weaknesses_that_ask_for_an_edit_leave_nothing_to_size_or_tuning() -> None:
    tiny = Traits("tiny", True, frozenset({"brevity"}))
    assert needs_of(tiny) == ("brevity", "order", "demonstration")
    assert needs_of(tiny, profile_first=True) == ("brevity",)
    assert render_plan(plan_for(Traits("tiny", False, frozenset({"order"})), GROUP, profile_first=True)) == plan(
        "order"
    )
    only_warned = Traits("tiny", False, frozenset({"loop"}))
    assert needs_of(only_warned, profile_first=True) == needs_of(only_warned) == ("brevity", "order", "loop")


@given(
    st.sampled_from(["tiny", "small", "large", "unknown"]),
    st.booleans(),
    st.frozensets(st.sampled_from(NEEDS)),
    st.frozensets(st.sampled_from(CANCELLABLE)),
)
def test_the_profile_first_takes_nothing_away_that_the_card_says(
    size: Size, pretrained: bool, said: frozenset[str], strong: frozenset[str]
) -> None:
    traits = Traits(size, pretrained, said, strong)
    needs, before = set(needs_of(traits, profile_first=True)), set(needs_of(traits))
    assert said <= needs <= before
    assert needs == (said if said & set(TRANSFORMING) else before)


def test_limit_leaves_two_sentences_or_one_and_wins_over_brevity() -> None:
    assert plan("limit") == "1 limit 1\n2 limit 2\n3 keep"
    assert plan("limit brevity") == "1 shorten limit 1\n2 limit 2\n3 keep"


def test_conditions_and_attention_go_wherever_they_are_admitted() -> None:
    assert plan("conditions") == "1 condition-action\n2 keep\n3 condition-action"
    assert plan("attention") == "1 emphasise\n2 emphasise\n3 emphasise"


def test_interface_adds_commands_where_facts_are_known_and_always_a_warning() -> None:
    assert plan("interface") == "1 keep\n2 keep\n3 keep\n+ warn invalid-action"
    assert plan("interface", facts=FACTS) == "1 syntax\n2 syntax\n3 syntax\n+ warn invalid-action"


def test_a_demonstration_goes_to_the_first_skill_and_steps_stand_in_without_facts() -> None:
    assert plan("demonstration", facts=FACTS) == "1 example\n2 keep\n3 keep"
    assert plan(pretrained=True, facts=FACTS) == plan("demonstration", facts=FACTS)
    assert plan("demonstration") == "1 steps\n2 steps\n3 keep"


def test_warnings_come_last_in_canonical_order_and_at_most_two() -> None:
    assert plan("verbosity loop") == "1 keep\n2 keep\n3 keep\n+ warn loop\n+ warn verbosity"
    assert plan("verbosity loop revisiting").endswith("+ warn loop\n+ warn revisiting")
    assert plan("interface invalid-action").count("invalid-action") == 1


@settings(max_examples=50, deadline=None)
@given(
    st.sets(st.sampled_from(NEEDS)),
    st.sampled_from(("tiny", "small", "large", "unknown")),
    st.booleans(),
    st.sampled_from((None, FACTS, *(known.facts for known in load_environments()))),
    st.lists(st.sampled_from((WORDY, LONG, PLAIN)), min_size=1, max_size=5),
)
def test_whatever_the_traits_the_plan_is_one_that_the_runtime_can_read(
    said: set[str], size: str, pretrained: bool, facts: Facts | None, skills: list[Skill]
) -> None:
    group = Group("x", tuple(skills))
    made = plan_for(Traits(size, pretrained, frozenset(said)), group, facts)  # type: ignore[arg-type]
    assert parse_plan(render_plan(made), prepare(Request(group, {}, facts=facts), frozenset(), "plan").allowed) == made
    assert all(len(line.edits) <= MAX_EDITS_PER_LINE for line in made.lines)
    assert len(made.warnings) <= MAX_WARNINGS
    assert not {"drop", "merge-up", "first"} & {call.name for line in made.lines for call in line.edits}


@pytest.mark.parametrize(
    ("label", "size"),
    [
        ("135M", "tiny"),
        ("0.6B", "tiny"),
        ("1B", "small"),
        ("4B", "small"),
        ("7B", "large"),
        ("400B", "large"),
        ("?", "unknown"),
    ],
)
def test_size_is_read_from_the_parameter_count(label: str, size: str) -> None:
    assert traits_of({"parameter_count": label}).size == size
    assert traits_of({}).size == "unknown"


def test_every_need_has_enough_behaviours_and_wordings() -> None:
    vocabulary = load_vocabulary()
    assert set(vocabulary.behaviours) == set(NEEDS) >= set(WARN_KINDS)
    for behaviours in vocabulary.behaviours.values():
        assert len(behaviours) >= 4
        assert any(not behaviour.known for behaviour in behaviours)
        for behaviour in behaviours:
            counts = {split: len(behaviour.wordings.get(split, ())) for split in SPLITS}
            assert counts["test"] >= 2
            assert not behaviour.known or (counts["train"] >= 4 and counts["validation"] >= 1)
    assert set(vocabulary.strengths) == set(CANCELLABLE)
    assert sum(len(list(vocabulary.wordings(split))) for split in SPLITS) >= 500


def test_a_wording_that_two_splits_share_is_refused(tmp_path: Path) -> None:
    check_vocabulary(load_vocabulary())
    source = (Path(__file__).parents[2] / "training/masa_training/bootstrap/behaviours.yaml").read_text("utf-8")
    path = tmp_path / "behaviours.yaml"
    path.write_text(source.replace("          - long-winded\n", "          - Verbose outputs\n"), encoding="utf-8")
    with pytest.raises(TrainingError, match="'verbose outputs'"):
        load_vocabulary(path)
    path.write_text("needs: 3\n", encoding="utf-8")
    with pytest.raises(TrainingError, match="not a vocabulary of behaviours"):
        load_vocabulary(path)


def test_a_wording_is_found_with_its_numbers_and_not_inside_a_word() -> None:
    pattern = wording_pattern("skipped it in {n} of {m} episodes")
    assert pattern.search("x; Skipped it in 3 of 20 episodes.")
    assert not pattern.search("xskipped it in 3 of 20 episodes")


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from(SPLITS), st.sampled_from(("plain", "strong", "profiled")))
def test_a_generated_card_says_what_its_traits_tell(seed: int, split: str, kind: str) -> None:
    vocabulary = load_vocabulary()
    card = make_card(random.Random(seed), vocabulary, split, kind)  # type: ignore[arg-type]
    assert list(card.fields) == [name for name in FIELDS if name in card.fields]
    assert not any("{" in str(value) for value in card.fields.values())
    assert card.traits.said == {behaviour.need for behaviour in card.behaviours}
    assert bool(card.behaviours) == (kind == "profiled")
    assert not card.traits.said & card.traits.strong
    for behaviour in card.behaviours:
        assert any(wording_pattern(w).search(str(card.fields["weaknesses"])) for w in behaviour.wordings[split])
    if kind == "strong":  # it takes back something that would follow without it
        assert needs_of(card.traits) != needs_of(Traits(card.traits.size, card.traits.pretrained))


def test_invented_environments_serve_the_skills_of_their_kind() -> None:
    known = load_environments()
    assert len([entry for entry in known if entry.split == "train"]) >= 5
    assert {entry.kind for entry in known if entry.split == "test"} >= {"shopping", "household"}
    names = [entry.facts.environment for entry in known]
    assert len(set(names)) == len(names)
    for entry in known:
        assert entry.facts.examples and len(entry.facts.actions) >= 3
        made = plan_for(Traits("large", False, frozenset({"interface", "demonstration"})), GROUP, entry.facts)
        assert {"syntax", "example"} <= {call.name for line in made.lines for call in line.edits}


def test_the_kind_of_a_bank_is_unknown_where_its_words_say_nothing() -> None:
    from masa.skills import SkillBank

    assert kind_of(SkillBank((Skill("a", "Sing", "Sing louder."),), {})) == ""
    assert isinstance(SkillGroup("", "", GROUP).group, Group)
