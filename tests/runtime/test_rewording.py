"""Operations in words around a scripted model: contracts, the second attempt, plans that words carry out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from tests.support import ScriptedBackend, unopened_artifact

from masa.cache import RewriteCache
from masa.cards import ModelCard
from masa.errors import MasaError
from masa.group_rewrite import Work, accept, refuse
from masa.languages import ParseError
from masa.progress import Tracker
from masa.provenance import GroupResult
from masa.rewording import Order, reword
from masa.rewriter import Rewriter
from masa.sampling import Sampling
from masa.skills import Skill, SkillBank
from masa.wording import OPERATIONS, losses, must_survive, parse_wording

CARD = ModelCard(family="Qwen3", variant="4B", weaknesses="skips steps")
PUMP = (
    "The pump may run for at most 15 minutes at a time, and it must not be started again before 5 minutes have gone by."
)
BANK = SkillBank(
    (
        Skill("a", "Pump", PUMP, "The cellar is wet."),
        Skill("b", "Short", "Knock first."),
        Skill("c", "Polite", "Please make sure to lock the door and take the key along."),
    ),
    {},
)
GOOD = "Run the pump at most 15 minutes. Do not restart before 5 minutes."


def rewriter(
    tmp_path: Path, words: Callable[[str], str], plan: str = "1 keep\n2 keep\n3 keep", cache: RewriteCache | None = None
) -> tuple[Rewriter, list[str]]:
    """A rewriter that plans and words, and the prompts that its worder has seen."""
    seen: dict[str, None] = {}

    def script(prompt: str) -> str:
        seen[prompt] = None
        return words(prompt)

    tmp_path.mkdir(exist_ok=True)
    planner, worder = (unopened_artifact(tmp_path, language=language) for language in ("plan", "wording"))
    made = Rewriter(
        planner,
        lambda: ScriptedBackend(lambda prompt: plan),
        cautious=False,
        cache=cache,
        words=(worder, lambda: ScriptedBackend(script)),
    )
    return made, seen  # type: ignore[return-value]


def test_what_the_edit_cannot_do_is_done_in_words(tmp_path: Path) -> None:
    made, prompts = rewriter(tmp_path, lambda prompt: GOOD, "1 shorten\n2 keep\n3 shorten")
    result = made.rewrite(BANK, CARD)
    group = result.groups[0]
    assert [skill.principle for skill in group.output.skills][:2] == [GOOD, "Knock first."]
    assert [fate.status for fate in group.fates] == ["rewritten", "kept", "edited"]
    assert group.fates[0].edits == ("shorten",) and group.status == "rewritten"
    assert "Please" not in group.output.skills[2].principle  # by the edit: no model was asked
    assert len(prompts) == 1 and "15 minutes" in next(iter(prompts))


def test_a_second_attempt_is_told_what_the_first_one_lost(tmp_path: Path) -> None:
    def words(prompt: str) -> str:
        return (
            GOOD
            if "Keep: 15 minutes; 5 minutes; 15 minutes" in prompt or prompt.count("15 minutes") > 2
            else "Run it. Do not restart before 5 minutes."
        )

    made, prompts = rewriter(tmp_path, words, "1 shorten\n2 keep\n3 keep")
    group = made.rewrite(BANK, CARD).groups[0]
    assert len(prompts) == 2 and group.output.skills[0].principle == GOOD


class TakesTurns:
    """An engine whose model gives one answer a run; None stands for a run that was cancelled."""

    def __init__(self, *answers: str | None) -> None:
        self.answers = list(answers)

    def run(
        self, works: Sequence[Work], sampling: Sampling, tracker: Tracker, cancel: Callable[[], bool]
    ) -> Iterator[tuple[int, GroupResult]]:
        for index, work in enumerate(works):
            answer = self.answers.pop(0)
            yield index, refuse(work, "", "cancelled") if answer is None else accept(work, answer, ())


def test_a_second_attempt_that_is_cancelled_leaves_the_first_one() -> None:
    text = "Write the meter reading down each evening, which pleases suppliers, and lock the cupboard."
    engine = TakesTurns("Note the meter each evening, lock cupboard.", None)
    order = Order((Skill("a", "Rule", text),), "shorten")
    (result,) = reword(engine, [order], Sampling(), Tracker(1, None), lambda: False)  # type: ignore[arg-type]
    assert result.status == "rewritten" and not engine.answers


@pytest.mark.parametrize(
    "answer",
    [
        "Run the pump for 10 minutes.",
        "Run the pump 15 minutes, again after 5 minutes. See `rm -rf /`.",
        "Sure, here is it.",
    ],
    ids=["a number is gone", "a command is new", "no skill at all"],
)
def test_what_breaks_the_contract_leaves_the_skill_as_it_was(tmp_path: Path, answer: str) -> None:
    made, _ = rewriter(tmp_path, lambda prompt: answer, "1 shorten\n2 keep\n3 keep")
    group = made.rewrite(BANK, CARD).groups[0]
    assert group.output == group.source and group.status == "fell back" and group.reason
    assert [fate.status for fate in group.fates] == ["fell back", "kept", "kept"]


def test_an_operation_is_forced_on_every_skill_that_is_long_enough(tmp_path: Path) -> None:
    steps = "1. Run the pump at most 15 minutes.\n2. Do not start it again before 5 minutes."
    made, prompts = rewriter(tmp_path, lambda prompt: steps)
    group = made.rewrite(BANK, CARD, operation="steps").groups[0]
    assert group.output.skills[0].principle == steps and group.output.skills[1] == BANK.general[1]
    assert "Operation: steps." in next(iter(prompts)) and "Knock" not in "".join(prompts)


def test_a_split_skill_becomes_several_with_new_ids(tmp_path: Path) -> None:
    made, _ = rewriter(tmp_path, lambda prompt: "Run it at most 15 minutes.\n---\nNever restart it before 5 minutes.")
    group = made.rewrite(BANK, CARD, operation="split", pinned=["c"]).groups[0]
    assert [skill.skill_id for skill in group.output.skills] == ["a", "a_2", "b", "c"]
    assert [fate.outputs for fate in group.fates] == [(0, 1), (2,), (3,)]


def test_an_example_is_put_behind_the_rule(tmp_path: Path) -> None:
    example = "Example: started at 10:00, off at 10:15, on again at 10:20."
    made, _ = rewriter(tmp_path, lambda prompt: example)
    output = made.rewrite(BANK, CARD, operation="example").groups[0].output
    assert output.skills[0].principle == f"{PUMP}\n\n{example}"


def test_rewordings_come_from_the_cache_the_second_time(tmp_path: Path) -> None:
    cache = RewriteCache(tmp_path / "cache")
    made, prompts = rewriter(tmp_path, lambda prompt: GOOD, "1 shorten\n2 keep\n3 keep", cache)
    first = made.rewrite(BANK, CARD)
    before = len(prompts)
    assert made.rewrite(BANK, CARD).bank == first.bank and len(prompts) == before
    made.rewrite(BANK, CARD, operation="explain")
    assert len(prompts) > before


def test_a_rewriter_of_words_alone_needs_an_operation(tmp_path: Path) -> None:
    artifact = unopened_artifact(tmp_path, language="wording")
    with Rewriter(artifact, lambda: ScriptedBackend(lambda prompt: GOOD)) as made:
        with pytest.raises(MasaError, match="operation"):
            made.rewrite(BANK, CARD)
        assert made.rewrite(BANK, CARD, operation="shorten").bank.general[0].principle == GOOD
    with pytest.raises(MasaError, match="merge"):
        made.rewrite(BANK, CARD, operation="merge")


def test_without_words_only_what_edits_can_do_is_done(tmp_path: Path) -> None:
    artifact = unopened_artifact(tmp_path)
    with (
        Rewriter(artifact, lambda: ScriptedBackend(lambda prompt: "")) as made,
        pytest.raises(MasaError, match="words"),
    ):
        made.rewrite(BANK, CARD, operation="explain")


def test_literals_and_figures_must_survive() -> None:
    text = 'Run `git fetch --all` at most three times; write to "Ops desk" at /srv/x.yaml, 3.5 kg.'
    assert must_survive([text]) == ("`git fetch --all`", '"Ops desk"', "/srv/x.yaml", "3.5 kg")
    assert losses(OPERATIONS["explain"], [text], "Run `git fetch --all` three times.") == must_survive([text])[1:]


def test_a_prohibition_that_is_gone_is_a_loss_unless_it_became_what_to_do() -> None:
    text = "Never open the window while the heating is on in the room."
    answer = "Open the window while the heating is on."
    assert losses(OPERATIONS["shorten"], [text], answer) == ("Never",)
    assert losses(OPERATIONS["positive"], [text], "Turn the heating off before you open the window.") == ()


def test_steps_are_numbered_from_one() -> None:
    assert parse_wording("1. A.\n2. B.", OPERATIONS["steps"]) == ("1. A.\n2. B.",)
    for answer in ("1. A.", "2. A.\n3. B.", "1. A.\n3. B.", "A.\nB."):
        with pytest.raises(ParseError):
            parse_wording(answer, OPERATIONS["steps"])


def test_a_cut_that_loses_grammar_alone_is_taken_and_one_that_loses_more_is_not(tmp_path: Path) -> None:
    bank = SkillBank((Skill("a", "Milk", "Milk that was opened more than 5 days ago goes on the list of waste."),), {})
    for answer, status in (
        ("Milk opened more than 5 days ago goes on the list waste.", "rewritten"),
        ("Milk more than 5 days ago goes on the list of waste.", "fell back"),
    ):
        made, prompts = rewriter(tmp_path / status, lambda prompt, answer=answer: answer, "1 keep")  # type: ignore[misc]
        assert made.rewrite(bank, CARD, operation="shorten").groups[0].status == status
    assert "opened" in list(prompts)[-1].partition("Keep:")[2]  # the second attempt was told


def test_fewer_prohibitions_than_before_are_a_loss(tmp_path: Path) -> None:
    text = "Never mix the two boxes, and do not stack them higher than the shelf on the wall is."
    bank = SkillBank((Skill("a", "Boxes", text),), {})
    made, _ = rewriter(tmp_path, lambda prompt: "1. Never mix the two boxes.\n2. Stack them higher than the shelf.")
    assert made.rewrite(bank, CARD, operation="steps").groups[0].status == "fell back"


def test_an_estimate_counts_one_prompt_for_each_skill_that_is_reworded(tmp_path: Path) -> None:
    made, _ = rewriter(tmp_path, lambda prompt: GOOD)
    one = made.estimate(BANK, CARD, operation="explain", pinned=["c"])
    both = made.estimate(BANK, CARD, operation="explain")
    assert one.groups[0].prompt_tokens >= len(PUMP)  # a token is a byte here
    assert both.groups[0].prompt_tokens > one.groups[0].prompt_tokens + len(BANK.general[2].principle)
    by_edit = made.estimate(BANK, CARD, operation="shorten")  # c is shortened by the edit, without a model
    assert by_edit.groups[0].prompt_tokens < both.groups[0].prompt_tokens
