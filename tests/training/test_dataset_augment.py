"""Augmented inputs, and the source numbers of targets."""

from __future__ import annotations

from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st

from masa.languages import parse_blocks, render_blocks
from masa.markdown import protected_spans
from masa.skills import Group, Skill
from masa_training.dataset.config import Augmentation
from masa_training.dataset.pairs import aligned_blocks, keep, noise, variants, verbose

_SENTENCES = (
    "Open every cupboard before you leave the room.",
    "Take the blue cup, because the red one is broken.",
    "Run `make test` and read scripts/check.py first.",
    "Say 'done' once all the plates are clean.",
    "Stop.",
    "Walk back to the door and wait there for a while.",
)
_skills = st.builds(
    Skill,
    st.uuids().map(str),
    st.just("A title"),
    st.lists(st.sampled_from(_SENTENCES), min_size=1, max_size=5).map(" ".join),
    st.sampled_from(("", "When the room is dark.", "Always")),
)
groups = st.lists(_skills, min_size=1, max_size=6).map(lambda skills: Group("clean", tuple(skills)))


@settings(max_examples=40, deadline=None)
@given(groups, st.integers(0, 99), st.floats(0.01, 1))
def test_keep_leaves_at_least_one_skill_in_order_and_changes_none(made: Group, seed: int, share: float) -> None:
    kept = keep(made, share, Random(seed)).skills
    assert kept
    rest = iter(made.skills)
    assert all(skill in rest for skill in kept)


@settings(max_examples=40, deadline=None)
@given(groups, st.integers(0, 99))
def test_noise_changes_sentences_only_and_never_code_or_quotations(made: Group, seed: int) -> None:
    noisy = noise(made, 1.0, Random(seed))
    assert [(s.skill_id, s.title, s.when_to_apply) for s in noisy.skills] == [
        (s.skill_id, s.title, s.when_to_apply) for s in made.skills
    ]
    for before, after in zip(made.skills, noisy.skills, strict=True):
        assert after.principle.strip()
        assert protected_spans(before.principle) == protected_spans(after.principle)
        assert before.principle.count("'done'") == after.principle.count("'done'")
    assert noise(made, 0.0, Random(seed)) == made


def test_noise_disturbs_about_its_share_of_the_sentences() -> None:
    sentences = [f"The sentence called x{'y' * number} has a few plain words." for number in range(400)]
    made = Group(None, tuple(Skill(str(i), "t", text) for i, text in enumerate(sentences)))
    changed = sum(a != b for a, b in zip(made.skills, noise(made, 0.3, Random(0)).skills, strict=True))
    # Exchanges change two sentences each, so a little more than 0.3 of them.
    assert 0.25 < changed / 400 < 0.5


@settings(max_examples=30, deadline=None)
@given(groups, st.integers(0, 99))
def test_verbose_only_appends_and_restates_the_condition(made: Group, seed: int) -> None:
    longer = verbose(made, Random(seed))
    for before, after in zip(made.skills, longer.skills, strict=True):
        assert after.principle.startswith(before.principle.rstrip()) and len(after.principle) > len(before.principle)
        if before.when_to_apply:
            assert before.when_to_apply.rstrip(".") in after.principle


@settings(max_examples=20, deadline=None)
@given(groups, st.integers(0, 99))
def test_an_augmentation_follows_from_its_seed(made: Group, seed: int) -> None:
    for augment in variants(Augmentation()).values():
        assert augment(made, Random(seed)) == augment(made, Random(seed))


def test_augmentations_that_are_off_are_not_made() -> None:
    assert list(variants(Augmentation())) == ["noise", "keep", "verbose"]
    assert not variants(Augmentation(noise=0, keep=1, verbose=False))


def test_a_target_skill_names_the_skill_it_came_from_a_merged_one_both_and_a_new_one_none() -> None:
    one = Skill("1", "Wash", "Hold the plate under running water until no grease is left.", "A plate is dirty.")
    two = Skill("2", "Dry", "Rub it with the towel from the hook.", "Something is wet.")
    three = Skill("3", "Search", "Look into every drawer before the cupboards.", "An object is missing.")
    source = Group("clean", (one, two, three))
    new = Skill("x", "Patience", "Wait until nobody is in the kitchen.", "Early in the morning.")
    both = Skill("y", one.title, f"{one.principle} {two.principle}", two.when_to_apply)
    blocks = aligned_blocks(Group("clean", (three, new, both, one)), source)
    assert blocks[0].sources[0] == 3
    assert blocks[1].sources == ()
    assert set(blocks[2].sources) == {1, 2}
    assert blocks[3].sources[0] == 1


@settings(max_examples=40, deadline=None)
@given(groups, groups)
def test_aligned_targets_parse_and_come_back_as_they_were(target: Group, source: Group) -> None:
    blocks = aligned_blocks(target, source)
    assert parse_blocks(render_blocks(blocks), len(source)) == blocks
    assert all(1 <= number <= len(source) for block in blocks for number in block.sources)
