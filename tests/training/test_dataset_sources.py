"""Reading published banks and run folders as evolved cells, and composing recorded plans."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from masa.codec import plan_to_json
from masa.edits import apply_plan
from masa.errors import FormatError
from masa.skills import GENERAL, Group
from masa_training.bank_groups import WHOLE
from masa_training.dataset.cells import read_published
from masa_training.dataset.composing import composed, leads_to
from masa_training.dataset.config import Banks, Places, load_config
from masa_training.dataset.runs import read_runs
from masa_training.errors import TrainingError
from masa_training.samples import Cell
from tests.training.dataset_banks import as_format_1, chain, group, plan, run_event, write_config, write_run


@pytest.fixture
def home(tmp_path: Path) -> tuple[Banks, Places]:
    config, places = load_config(str(write_config(tmp_path)))
    return config.sources.banks[0], places


# --- published banks -------------------------------------------------------------------------------


def test_published_banks_give_a_cell_for_every_backbone_and_group(home: tuple[Banks, Places]) -> None:
    found = read_published(*home)
    assert {c.cell for c in found.cells} == {
        Cell("home", f"Toy-{size}", key) for size in ("1B", "2B", "3B") for key in (GENERAL, "clean", "heat", "fetch")
    }
    cell = next(c for c in found.cells if c.cell == Cell("home", "Toy-2B", "clean"))
    assert [skill.skill_id for skill in cell.base.skills] == ["clean_1", "clean_2", "clean_3"]
    assert cell.adapter is not None and "adapter of 2b" in cell.adapter.skills[0].principle
    assert "evolved of 2b" in cell.evolved.skills[0].principle
    assert [(i.name, i.stage) for i in cell.intermediates] == [("base", "early")]
    assert cell.card["weaknesses"] == "repeats itself, like 2b"
    assert (cell.description, cell.licence) == ("a small home", "CC0-1.0")


def test_a_group_that_the_evolved_bank_lacks_is_left_out_and_told(home: tuple[Banks, Places]) -> None:
    left_out = read_published(*home).left_out["the evolved bank lacks the group"]
    assert left_out == ("home/Toy-1B/extra", "home/Toy-2B/extra", "home/Toy-3B/extra")


def test_two_backbones_with_one_card_are_refused(home: tuple[Banks, Places], tmp_path: Path) -> None:
    (tmp_path / "cards/2b.yaml").write_text((tmp_path / "cards/1b.yaml").read_text())
    with pytest.raises(TrainingError, match="describes Toy-1B, as"):
        read_published(*home)


def test_a_missing_bank_or_card_is_one_sentence_with_its_path(home: tuple[Banks, Places], tmp_path: Path) -> None:
    (tmp_path / "cards/2b.yaml").unlink()
    with pytest.raises(TrainingError, match=r"2b\.yaml"):
        read_published(*home)
    (tmp_path / "banks/home/1b_evolved.json").unlink()
    with pytest.raises(FormatError, match=r"1b_evolved\.json"):
        read_published(*home)


def test_the_published_banks_give_48_cells_and_skip_examine(shared_data: Path) -> None:
    config, places = load_config("text-published", data_dir=str(shared_data))
    found = [read_published(banks, places) for banks in config.sources.banks]
    assert [len(f.cells) for f in found] == [28, 20]
    assert {name.split("/")[-1] for name in found[0].left_out["the evolved bank lacks the group"]} == {"examine"}


# --- plans -----------------------------------------------------------------------------------------

_EDITS = st.sampled_from(("keep", "shorten", "steps", "condition-action", "emphasise", "drop", "first", "limit=2"))


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(_EDITS, _EDITS, _EDITS), min_size=2, max_size=3))
def test_a_composed_plan_that_leads_there_does_what_the_plans_did(steps: list[tuple[str, str, str]]) -> None:
    start = current = group("clean")
    plans = []
    for step in steps:
        made = plan(*step[: len(current)])
        try:
            current = apply_plan(current, made).group
        except ValueError:
            return
        plans.append(made)
    whole = composed(plans)
    if whole is not None and leads_to(start, whole, current, None):
        assert apply_plan(start, whole).group == current


def test_plans_compose_line_by_line_in_canonical_order() -> None:
    first, second = plan("emphasise", "keep", "limit=3"), plan("shorten", "steps", "limit=2", warnings=("loop",))
    assert composed([first, second]) == plan("shorten emphasise", "steps", "limit=2", warnings=("loop",))
    assert composed([first]) == first


def test_a_structural_edit_may_only_come_last() -> None:
    reshaping, plain = plan("keep", "drop", "keep"), plan("shorten", "keep", "keep")
    assert composed([plain, reshaping]) == plan("shorten", "drop", "keep")
    assert composed([reshaping, plan("shorten", "keep")]) is None
    assert composed([plan("keep", "first", "keep"), plain]) is None


def test_later_edits_of_an_added_warning_do_not_compose() -> None:
    warned = plan("keep", "keep", "keep", warnings=("loop",))
    assert composed([warned, plan("shorten", "keep", "keep", "keep")]) == plan(
        "shorten", "keep", "keep", warnings=("loop",)
    )
    assert composed([warned, plan("shorten", "keep", "keep", "shorten")]) is None


# --- run folders -----------------------------------------------------------------------------------


def test_a_run_gives_a_cell_with_stages_plans_and_the_best_group(tmp_path: Path) -> None:
    steps = [plan("shorten", "keep", "keep"), plan("keep", "emphasise", "keep"), plan("keep", "keep", "drop")]
    folder = write_run(tmp_path / "run", [run_event(task="Tidy up."), *chain("clean", steps)])
    (cell,) = read_runs(folder).cells
    assert cell.cell == Cell("home", "Toy-1B", "clean") and cell.task == "Tidy up."
    assert [(i.name, i.stage) for i in cell.intermediates] == [
        ("clean-0", "early"),
        ("clean-1", "middle"),
        ("clean-2", "late"),
    ]
    for intermediate in cell.intermediates:
        assert intermediate.plan is not None
        assert apply_plan(intermediate.group, intermediate.plan).group == cell.evolved
    assert cell.intermediates[0].plan == plan("shorten", "emphasise", "drop")


def test_only_a_path_with_plans_that_lead_to_the_best_group_gives_plans(tmp_path: Path) -> None:
    events = [run_event(), *chain("clean", [plan("shorten", "keep", "keep"), None])]
    (cell,) = read_runs(write_run(tmp_path / "a", events)).cells
    assert all(i.plan is None and "no plan was recorded" in i.no_plan for i in cell.intermediates)
    events = [run_event(), *chain("clean", [plan("shorten", "keep", "keep")])]
    events[2]["plan"] = plan_to_json(plan("keep", "shorten", "keep"))
    (cell,) = read_runs(write_run(tmp_path / "b", events)).cells
    assert cell.intermediates[0].no_plan == "the recorded plan does not lead to the best group"
    old = as_format_1(events)
    old[2]["plan"] = "1 dance"
    (cell,) = read_runs(write_run(tmp_path / "c", old)).cells
    assert "no plan was recorded" in cell.intermediates[0].no_plan


def test_a_run_of_the_first_format_gives_the_same_cells(tmp_path: Path) -> None:
    steps = [plan("shorten", "keep", "keep"), plan("keep", "emphasise", "keep", warnings=("loop",))]
    events = [run_event(), *chain("clean", steps), *chain("heat", [None])]
    today = read_runs(write_run(tmp_path / "run", events), "one").cells
    assert len(today) == 2 and read_runs(write_run(tmp_path / "old", as_format_1(events)), "one").cells == today


@pytest.mark.parametrize("first_format", [False, True])
def test_the_whole_bank_s_search_gives_cells_of_its_groups(tmp_path: Path, first_format: bool) -> None:
    both = Group(WHOLE, (*group("clean").skills, *group("heat").skills))
    homes = {skill.skill_id: key for key in ("clean", "heat") for skill in group(key).skills}
    searches = [*chain(WHOLE, [plan(*["shorten"] * 3, *["keep"] * 3)], start=both), *chain("heat", [])]
    if first_format:
        nodes = [
            {
                "event": "node",
                "id": f"{WHOLE}-0",
                "group": key,
                "skills": [{"skill_id": s.skill_id} for s in its.skills],
            }
            for key, its in (("clean", group("clean")), ("heat", group("heat")))
        ]
        searches = [*as_format_1(searches[:-2]), *nodes, {"event": "whole", "node": 1}, *as_format_1(searches[-2:])]
    else:
        searches = [{"event": "homes", "skills": homes}, *searches]
    found = read_runs(write_run(tmp_path / "run", [run_event(), *searches]))
    (cell,) = found.cells
    assert cell.cell.group == "clean" and cell.base == group("clean")
    assert [i.plan for i in cell.intermediates] == [plan("shorten", "shorten", "shorten")]
    assert "home/Toy-1B/heat" in found.left_out["the search found nothing better than what it began with"]


def test_a_torn_last_line_is_passed_over_wherever_the_run_was_killed(tmp_path: Path) -> None:
    """The file cut after every byte: either a readable run, or one sentence while the run had not begun."""
    events = [run_event(), *chain("clean", [plan("shorten", "keep", "keep")])]
    folder = write_run(tmp_path / "run", events)
    whole = (folder / "events.jsonl").read_bytes()
    begun = whole.index(b"\n")
    for end in range(0, len(whole), 37):
        (folder / "events.jsonl").write_bytes(whole[:end])
        if end < begun:
            with pytest.raises(TrainingError, match="never began"):
                read_runs(folder)
        else:
            found = read_runs(folder)
            assert not found.cells and (whole[:end].endswith((b"\n", b"}")) or any("torn" in r for r in found.left_out))


def test_a_damaged_line_inside_is_an_error_with_its_number(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", [run_event()], "{oops\n" + json.dumps({"event": "other"}) + "\n")
    with pytest.raises(TrainingError, match=r"events\.jsonl: line 2"):
        read_runs(folder)


@pytest.mark.parametrize(
    ("event", "said"),
    [
        ({"event": "ended", "group": "clean", "best": 9}, "9 of clean was never proposed"),
        ({"event": "proposal", "group": "clean"}, "missing|not as expected"),
        (
            {"event": "verdict", "group": "a", "round": 1, "node": 1, "incumbent": 0, "decision": 3},
            "not as expected",
        ),
        (
            {"event": "rewrite", "group": "a", "round": 1, "parent": 0, "plan": {"edits": [[3]]}},
            "found 3 where a text",
        ),
        ({"event": "homes", "skills": 3}, "int"),
        ({"no": "event"}, "missing 'event'"),
        ({**run_event(), "format": 9}, "format 9, this masa reads 1 to 2"),
    ],
)
def test_a_wrong_event_is_one_sentence(tmp_path: Path, event: dict[str, object], said: str) -> None:
    with pytest.raises(TrainingError, match=said) as error:
        read_runs(write_run(tmp_path / "run", [run_event(), event]))
    assert "line 2" in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"card": {"num_layers": "many"}}, "num_layers of a model card must be a whole number"),
        ({"backbone": 3}, "found 3 where the text backbone"),
        ({"facts": {"rules": []}}, "missing 'environment'"),
    ],
)
def test_what_a_run_says_of_itself_is_checked(tmp_path: Path, wrong: dict[str, object], said: str) -> None:
    with pytest.raises(TrainingError, match=said):
        read_runs(write_run(tmp_path / "run", [{**run_event(), **wrong}, *chain("clean", [])]))


def test_what_is_no_run_folder_is_told(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"no events\.jsonl in it"):
        read_runs(tmp_path)


def test_a_search_without_a_result_gives_no_cell_and_is_told(tmp_path: Path) -> None:
    nothing = [run_event(), *chain("clean", []), *chain("heat", [plan("shorten", "keep", "keep")])[:-1]]
    found = read_runs(write_run(tmp_path / "run", nothing))
    assert not found.cells
    assert found.left_out == {
        "the search found nothing better than what it began with": ("home/Toy-1B/clean",),
        "the search of the group has not ended": ("home/Toy-1B/heat",),
    }


@pytest.mark.parametrize(
    ("verdict", "difference", "incumbent", "known"),
    [(False, -0.4, 0, True), (None, 0.0, 0, False), (False, 0.0, 0, False), (False, -0.4, 2, False)],
)
def test_a_group_that_a_rewrite_made_worse_is_a_result_where_it_is_to_be_kept(
    tmp_path: Path, verdict: bool | None, difference: float, incumbent: int, known: bool
) -> None:
    decision = {"verdict": verdict, "difference": difference, "p": None, "reason": ""}
    judged = {"event": "verdict", "round": 1, "node": 0, "incumbent": incumbent, "decision": decision}
    events = [run_event(), *chain("clean", [])]
    folder = write_run(tmp_path / "run", [*events[:-1], {**judged, "group": "clean"}, events[-1]])
    assert not read_runs(folder).cells
    cells = read_runs(folder, kept=True).cells
    assert [cell.evolved == cell.base == group("clean") for cell in cells] == [True] * known
    for cell in cells:
        (intermediate,) = cell.intermediates
        assert intermediate.plan == plan("keep", "keep", "keep")


def test_a_card_that_is_given_replaces_the_recorded_one(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", [run_event(), *chain("clean", [plan("shorten", "keep", "keep")])])
    (cell,) = read_runs(folder, cards={"Toy-1B": {"weaknesses": "loops"}, "Other": {}}).cells
    assert cell.card == {"weaknesses": "loops"}


def test_unknown_events_and_keys_are_passed_over(tmp_path: Path) -> None:
    events = chain("clean", [plan("shorten", "keep", "keep"), plan("keep", "emphasise", "keep")])
    early = {"event": "ended", "group": "clean", "best": 1, "why": "paired"}
    folder = write_run(tmp_path / "run", [run_event(cost=3), {"event": "budget"}, *events[:-1], early])
    (cell,) = read_runs(folder).cells
    assert cell.evolved.skills[1] == group("clean").skills[1]
