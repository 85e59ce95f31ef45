"""The table of a study: pooled over seeds, computed from files, and the same numbers as the evaluation's own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from masa_training.distill.config import DistillConfig
from masa_training.errors import TrainingError
from masa_training.evaluate.rewriter.results import Results
from masa_training.evaluate.rewriter.running import run as evaluate
from masa_training.evaluate.rewriter.running import scope_of
from masa_training.statistics import Interval
from masa_training.studies.distillation import curve, told, training, training_minutes
from masa_training.studies.distillation_cells import write_cell
from masa_training.studies.distillation_config import Measure
from masa_training.studies.distillation_report import (
    Pooled,
    advantage,
    beats,
    counted,
    level,
    pooled,
    standing,
    to_markdown,
)
from masa_training.studies.running import write_report
from tests.training.evaluation_samples import PLANS, LikingBackend, card_reader, dataset, samples, subject
from tests.training.study_results import clusters, result, study

WRONG = advantage("trained", "wrong")


def one_seed(clusters: int) -> st.SearchStrategy[list[float]]:
    return st.lists(st.floats(-1, 1), min_size=clusters, max_size=clusters)


DIFFERENCES = st.lists(st.floats(-1, 1).map(lambda x: round(x, 4)), min_size=2, max_size=8)


def seeds(*differences: list[float]) -> list[Any]:
    return [
        {"cell": f"c-seed{seed}", "seed": seed, "clusters": clusters(each)} for seed, each in enumerate(differences)
    ]


@settings(max_examples=25, deadline=None)
@given(st.integers(2, 6).flatmap(lambda n: st.lists(one_seed(n), min_size=1, max_size=3)))
def test_the_pooled_estimate_is_the_mean_over_seeds_inside_its_interval(differences: list[list[float]]) -> None:
    found = pooled(seeds(*differences), WRONG, resamples=200)
    assert found is not None and found.interval is not None
    assert found.estimate == pytest.approx(sum(found.seeds.values()) / len(found.seeds), abs=1e-9)
    assert found.interval.low <= found.estimate + 1e-12 and found.estimate <= found.interval.high + 1e-12
    assert found.clusters == found.interval.clusters == len(differences[0])
    lengths = [10.0 + i for i in range(len(differences[0]))]
    by_hand = sum(d * n for d, n in zip(differences[0], lengths, strict=True)) / sum(lengths)
    assert found.seeds[0] == pytest.approx(by_hand, abs=1e-9)


@settings(max_examples=20, deadline=None)
@given(DIFFERENCES)
def test_a_seed_counted_twice_changes_nothing_and_the_order_of_seeds_does_not_matter(differences: list[float]) -> None:
    other = [d / 2 - 0.1 for d in differences]
    once = pooled(seeds(differences), WRONG, resamples=200)
    twice = pooled(seeds(differences, differences), WRONG, resamples=200)
    assert once is not None and twice is not None and once.interval is not None and twice.interval is not None
    assert twice.interval == pytest.approx(once.interval, abs=1e-9), "a second seed is no second set of clusters"
    results = seeds(differences, other)
    forth, back = pooled(results, WRONG, resamples=200), pooled(results[::-1], WRONG, resamples=200)
    assert forth is not None and back is not None and forth.interval is not None and back.interval is not None
    assert back.interval == pytest.approx(forth.interval, abs=1e-12) and back.seeds == forth.seeds


def test_what_cannot_be_pooled_is_undefined_or_an_error() -> None:
    assert pooled([], WRONG) is None and pooled(seeds([0.1]), advantage("trained", "contrast")) is None
    single = pooled(seeds([-0.5]), WRONG)
    assert single is not None and single.interval is None and single.estimate == pytest.approx(-0.5)
    with pytest.raises(TrainingError, match="c-seed0, c-seed1"):
        pooled(seeds([0.1, 0.2], [0.1, 0.2, 0.3]), WRONG)
    damaged = seeds([0.1, 0.2])
    del damaged[0]["clusters"][0]["trained"]
    with pytest.raises(TrainingError, match="c-seed0"):
        pooled(damaged, WRONG)


@pytest.mark.parametrize(
    ("interval", "each", "verdict"),
    [
        ((-0.3, -0.1), (-0.2, -0.2), "yes"),
        ((-0.3, -0.1), (-0.41, 0.01), "undecided"),
        ((-0.3, 0.0), (-0.2, -0.1), "undecided"),
        ((-0.009, 0.02), (0.0, 0.01), "no"),
        ((-0.011, 0.02), (0.0, 0.01), "undecided"),
        ((0.1, 0.3), (0.2, 0.2), "no"),
        ((-0.005, 0.03), (-0.3, 0.3), "undecided"),
    ],
)
def test_the_right_card_beats_the_others_only_beyond_the_interval(
    interval: tuple[float, float], each: tuple[float, float], verdict: str
) -> None:
    estimate = sum(each) / 2
    found = Pooled(estimate, Interval(estimate, *interval, 5), dict(enumerate(each)), 5)
    assert beats(found, 0.01) == verdict
    assert beats(None, 0.01) == beats(Pooled(-1.0, None, {0: -1.0}, 1), 0.01) == "undecided"


def test_sums_by_cluster_give_the_numbers_of_the_evaluation() -> None:
    data = dataset(samples(4))
    how = Measure(wrong_cards=3, write=True)
    scope = scope_of(data, "test", wrong_cards=3)
    results = Results(None, {})
    evaluate(subject(LikingBackend(card_reader, strength=3.0, noise=0.5)), scope, results)
    evaluate(subject(LikingBackend(lambda _: PLANS[0], strength=2.0, noise=0.5, seed=1), "base"), scope, results)
    kept = told(scope, results, how, resamples=200)
    cell = {"cell": "c", "seed": 0, "clusters": kept["clusters"]}
    assert len(kept["clusters"]) == 4 and kept["clusters"][0]["samples"] == 3
    for model in ("trained", "base"):
        nll = kept["models"][model]["nll"]
        for arm in ("wrong", "contrast", "none", "bare"):
            here = pooled([cell], level(model, arm))
            apart = pooled([cell], advantage(model, arm), resamples=200)
            assert here is not None and here.estimate == pytest.approx(nll[arm]["estimate"], abs=1e-5)
            assert apart is not None and apart.estimate == pytest.approx(nll[f"right - {arm}"]["estimate"], abs=1e-5)
            assert apart.interval is not None
            assert apart.interval.low == pytest.approx(nll[f"right - {arm}"]["low"], abs=0.2)
        below = pooled([cell], counted(model, "below"))
        assert below is not None and below.estimate == nll["share right < every wrong"]["estimate"]
        exact = pooled([cell], counted(model, "exact"))
        assert exact is not None and exact.estimate == kept["models"][model]["generation"]["exact"]["estimate"]
    assert "reasons" not in kept["models"]["trained"]["generation"]


def test_the_report_says_what_the_files_say_and_marks_what_is_missing(tmp_path: Path) -> None:
    made = study(tmp_path)
    nothing = to_markdown(made, {}, where=tmp_path)
    assert "# Study boxes (PARTIAL: 0 of 3 cells)" in nothing and "First: no cell is finished." in nothing
    write_cell(tmp_path, result(made, made.cells[0], (-0.3, -0.2, -0.25)))
    one = write_report(made, tmp_path)
    assert "(PARTIAL: 1 of 3 cells)" in one and "Missing: one-seed1, two-seed0." in one
    assert "First: right card beats wrong cards beyond the interval: **yes**" in one and "1 of 2 seeds" in one
    assert f"masa evaluate distillation {made.spec} -o {tmp_path}" in one
    write_cell(tmp_path, result(made, made.cells[1], (0.3, 0.2, 0.3)))
    write_cell(tmp_path, result(made, made.cells[2], (0.02, 0.03, 0.02)))
    whole = write_report(made, tmp_path)
    assert "PARTIAL" not in whole and "First: right card beats wrong cards beyond the interval: **undecided**" in whole
    assert "(seed 0)" in whole and "(seed 1)" in whole
    assert "two: right card beats wrong cards beyond the interval: **no**" in whole
    assert "## Primary" in whole and "## Remedies" in whole and "| Other |" in whole
    assert whole == to_markdown(
        made,
        {
            c.name: result(made, c, d)
            for c, d in zip(made.cells, ((-0.3, -0.2, -0.25), (0.3, 0.2, 0.3), (0.02, 0.03, 0.02)), strict=True)
        },
        where=tmp_path,
    )


def test_seeds_on_other_data_than_the_latest_are_not_pooled(tmp_path: Path) -> None:
    made = study(tmp_path)
    old, new = result(made, made.cells[0]), result(made, made.cells[1])
    old["configuration"]["dataset_sha256"] = "0" * 64
    found = standing(made, {old["cell"]: old, new["cell"]: new})
    assert [r["cell"] for r in found.rows["one"]] == ["one-seed1"] and "one-seed0" in found.missing
    assert len(found.left_out) == 1 and "dataset_sha256" in found.left_out[0]


def test_the_curve_leaves_out_what_a_kill_undid() -> None:
    events = [
        {"event": "started", "time": 0.0, "steps": 10},
        {"event": "evaluated", "time": 6.0, "step": 0, "nll": 4.0},
        {"event": "trained", "time": 60.0, "step": 5, "loss": 3.0},
        {"event": "evaluated", "time": 66.0, "step": 5, "nll": 3.5},
        {"event": "trained", "time": 120.0, "step": 8, "loss": 9.0},
        {"event": "resumed", "time": 9000.0, "steps": 10},
        {"event": "trained", "time": 9060.0, "step": 8, "loss": 2.0},
        {"event": "trained", "time": 9090.0, "step": 10, "loss": 1.0},
        {"event": "evaluated", "time": 9120.0, "step": 10, "nll": 2.5},
        {"event": "finished", "time": 9120.0, "steps": 10, "validation_nll": 2.5},
    ]
    config = DistillConfig(epochs=2)
    assert curve(events, config) == [
        {"step": 0, "epoch": 0.0, "validation_nll": 4.0, "training_loss": None},
        {"step": 5, "epoch": 1.0, "validation_nll": 3.5, "training_loss": 3.0},
        {"step": 10, "epoch": 2.0, "validation_nll": 2.5, "training_loss": 1.5},
    ]
    assert all(point["epoch"] is None for point in curve(events, DistillConfig(max_steps=10)))
    assert training_minutes(events) == 4.0
    assert training(events) == {"steps": 10, "planned_steps": 10, "validation_nll": 2.5, "resumed": 1}
