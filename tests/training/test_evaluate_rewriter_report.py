"""A rewriter that reads the card must be told from one that does not, and a report must say what it rests on."""

from __future__ import annotations

import errno
import json
import os
import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from masa.group_rewrite import prepare, refuse
from masa.guard import Violation
from masa_training.errors import TrainingError
from masa_training.evaluate.rewriter.arms import variants
from masa_training.evaluate.rewriter.generation import compare_plans, row_of
from masa_training.evaluate.rewriter.report import report, to_markdown
from masa_training.evaluate.rewriter.results import Results
from masa_training.evaluate.rewriter.running import Scope, check_fit, run, scope_of, workload
from masa_training.samples import Sample
from tests.training.evaluation_samples import PLANS, LikingBackend, card_reader, dataset, sample, samples, subject

SETTINGS = {"rewriter": "liking", "dataset": "boxes", "seed": 0}


def evaluated(
    backend: LikingBackend, trees: int = 6, *, write: bool = True, resamples: int = 300, **options: Any
) -> dict[str, Any]:
    scope = scope_of(dataset(samples(trees)), "test", wrong_cards=3, **options)
    results = Results(None, SETTINGS)
    run(subject(backend), scope, results, write=write)
    return report(scope, results, write=write, resamples=resamples)


def scored_at_random(scope: Scope, seed: int, effect: float = 0.0) -> Results:
    """Results of a model that does not read the card; `effect` favours the right one.

    Luck is per result and per tree, and a tree's luck favours or disfavours the right cards of all its samples.
    """
    rng = random.Random(seed)
    results = Results(None, SETTINGS)
    trees: dict[str, float] = {}
    biases: dict[str, float] = {}
    for sample_ in scope.samples:
        luck = trees.setdefault(sample_.tags["tree"], rng.gauss(0, 1))
        bias = biases.setdefault(sample_.tags["tree"], rng.gauss(0, 1))
        results.add(
            {
                "model": "trained",
                "sample": sample_.id,
                "variant": variant.key,
                "arms": list(variant.arms),
                "nll": 20 + 3 * luck + rng.gauss(0, 1) - (effect + bias if variant.key == "right" else 0),
                "tokens": 10,
                "hits": 5,
            }
            for variant in scope.variants(sample_)
        )
    return results


def test_a_rewriter_that_reads_the_card_is_found_to() -> None:
    found = evaluated(LikingBackend(card_reader, noise=0.5))
    model = found["models"]["trained"]
    assert model["verdict"].startswith("It reads the card")
    nll = model["nll"]
    for arm in ("wrong", "contrast"):
        assert nll[f"right - {arm}"]["high"] < -0.1
    assert nll["share right < every contrast"]["estimate"] == 1
    # Strengths and weaknesses say nothing that the family does not, to this rewriter.
    assert abs(nll["right - bare"]["estimate"]) < 0.2
    assert model["breakdown"]["behaviours"]["seen"]["right - wrong"]["high"] < 0
    written = model["generation"]
    assert written["exact"]["estimate"] == written["valid"]["estimate"] == 1
    assert written["edits"]["all"]["f1"]["estimate"] == 1
    assert written["pairs"] == {
        "pairs": 18,
        "different": 1.0,
        "different_where_targets_differ": 1.0,
        "different_where_targets_agree": None,
    }
    assert not found["partial"] and found["clusters"] == 6


def test_a_rewriter_that_ignores_the_card_is_found_out() -> None:
    found = evaluated(LikingBackend(lambda _: PLANS[0], noise=0.5))
    model = found["models"]["trained"]
    interval = model["nll"]["right - wrong"]
    assert interval["low"] < 0 < interval["high"]
    assert "not shown to be model-aware" in model["verdict"]
    written = model["generation"]
    assert written["exact"]["estimate"] == pytest.approx(1 / 3)
    assert written["pairs"]["different"] == 0
    assert written["different_outputs"] == 1


def test_without_an_effect_the_interval_excludes_zero_about_as_often_as_it_says() -> None:
    scope = scope_of(dataset(samples(20)), "test", wrong_cards=2)
    from masa_training.evaluate.rewriter.report import _difference, _Judge, _scores

    wrong = 0
    for seed in range(100):
        scores = _scores(scored_at_random(scope, seed), "trained")
        interval = _difference(scope.samples, scores, _Judge(0, 100), "wrong")
        assert interval is not None
        wrong += not interval["low"] <= 0 <= interval["high"]
    assert wrong <= 13, f"{wrong} false positives in 100"


def test_a_true_effect_is_found_and_the_interval_contains_it() -> None:
    scope = scope_of(dataset(samples(20)), "test", wrong_cards=2)
    found = report(scope, scored_at_random(scope, 0, effect=1.5), write=False, resamples=300)
    interval = found["models"]["trained"]["nll"]["right - wrong"]
    assert interval["low"] < -1.5 / 10 < interval["high"] < 0
    assert interval["clusters"] == 20 and interval["samples"] == 60


def test_wrong_cards_are_averaged_in_a_sample_before_samples_are_by_tokens() -> None:
    everything = [sample(0, 0), sample(1, 1)]
    scope = scope_of(dataset([*everything, sample(2, 2)]), "test", wrong_cards=8)
    results = Results(None, SETTINGS)
    nlls = {"s0-0": (10.0, {"right": 1.0, "wrong": (2.0, 4.0)}), "s1-1": (30.0, {"right": 9.0, "wrong": (6.0, 6.0)})}
    for identifier, (tokens, values) in nlls.items():
        rows = [("right", ["right"], values["right"])]
        rows += [(f"card c{i}", ["wrong"], value) for i, value in enumerate(values["wrong"])]  # type: ignore[arg-type]
        results.add(
            {"model": "trained", "sample": identifier, "variant": v, "arms": a, "nll": n, "tokens": tokens, "hits": 0}
            for v, a, n in rows
        )
    found = report(scope, results, write=False, resamples=50)
    nll = found["models"]["trained"]["nll"]
    assert nll["right"]["estimate"] == pytest.approx((1 + 9) / 40)
    assert nll["wrong"]["estimate"] == pytest.approx((3 + 6) / 40)
    assert nll["right - wrong"]["estimate"] == pytest.approx((-2 + 3) / 40)
    assert nll["share right < wrong"]["estimate"] == 0.5
    assert nll["contrast"] is None
    assert found["models"]["trained"]["cards"]["c1"]["estimate"] == pytest.approx((-3 + 3) / 40)
    assert found["partial"], "one sample of three is missing"


def test_one_cluster_has_an_estimate_and_no_interval() -> None:
    found = evaluated(LikingBackend(card_reader), trees=1, write=False)
    assert found["models"]["trained"]["nll"]["right"]["low"] is None
    assert "too few" in found["models"]["trained"]["verdict"]


def test_every_output_is_measured_against_source_and_target() -> None:
    scope = scope_of(dataset(samples(2)), "test")
    results = Results(None, SETTINGS)
    run(subject(LikingBackend(card_reader)), scope, results)
    rows = {row["sample"]: row["generated"] for row in results.rows if "generated" in row}
    assert len(rows) == 6
    for row in rows.values():
        assert row["valid"] and row["guarded"] and row["exact"] and row["to_target"] == 0
        assert 0 < row["to_source"] <= 1
    assert rows["s0-0"]["length_ratio"] < 1 < rows["s0-1"]["length_ratio"]
    assert rows["s0-0"]["changed"] == 1 and rows["s0-0"]["skills"] == 2


def test_an_output_that_the_guard_refuses_is_valid_and_not_guarded() -> None:
    first = sample(0, 0)
    work = prepare(first.request, frozenset(), "plan")
    violation = Violation("length", "too long", None)
    refused = row_of(first, work, replace(refuse(work, "refused", violations=(violation,)), raw="1 keep\n2 keep"), ())
    assert refused["valid"] and not refused["guarded"] and refused["length_ratio"] is None
    assert refused["edits"] == {"keep": [1, 1, 0], "limit": [0, 0, 1]}, "the plan is judged all the same"
    cut = row_of(first, work, replace(refuse(work, "the output was not finished"), raw="1 keep\n2"), ())
    assert not cut["valid"] and not cut["guarded"] and cut["changed"] == 0
    assert cut["edits"] == {"keep": [0, 0, 1], "limit": [0, 0, 1]}


def test_the_untrained_base_stands_beside() -> None:
    scope = scope_of(dataset(samples(3)), "test", wrong_cards=2)
    results = Results(None, SETTINGS)
    run(subject(LikingBackend(card_reader)), scope, results)
    run(subject(LikingBackend(lambda _: PLANS[0], strength=1.0), "base"), scope, results)
    found = report(scope, results, models=("trained", "base"), resamples=100)
    models = found["models"]
    assert models["trained"]["nll"]["right"]["estimate"] < models["base"]["nll"]["right"]["estimate"]
    text = to_markdown(found)
    assert "| trained | base |" in text and "Partial" not in text and "Synthetic" in text
    assert "F1 by edit (base)" in text


def test_edits_are_counted_at_their_skill_with_their_argument() -> None:
    work = prepare(sample(0, 0).request, frozenset(), "plan")

    def compared(output: str, target: str) -> dict[str, list[int]]:
        return compare_plans(output, target, work)

    assert compared("1 steps\n2 keep", "1 steps\n2 keep") == {"keep": [1, 0, 0], "steps": [1, 0, 0]}
    swapped = compared("1 keep\n2 emphasise", "1 emphasise\n2 keep")
    assert swapped == {"emphasise": [0, 1, 1], "keep": [0, 1, 1]}
    assert compared("1 keep\n2 keep\n+ warn loop", "1 keep\n2 keep") == {"keep": [2, 0, 0], "warn": [0, 1, 0]}
    assert compared("1 limit 2\n2 keep", "1 limit 1\n2 keep") == {"keep": [1, 0, 0], "limit": [0, 1, 1]}
    assert compared("no plan", "1 keep\n2 keep") == {"keep": [0, 0, 2]}


def test_the_estimate_of_work_is_what_is_done() -> None:
    scope = scope_of(dataset(samples(2)), "test", wrong_cards=3)
    backend = LikingBackend(card_reader)
    results = Results(None, SETTINGS)
    before = workload(subject(backend), scope, results, backend)
    assert before.samples == 6 and before.variants == sum(len(scope.variants(s)) for s in scope.samples)
    run(subject(backend), scope, results, write=False)
    begun = before.variants
    assert backend.sessions[0].steps + begun + before.samples == before.passes
    after = workload(subject(backend), scope, results, backend)
    assert after.samples == after.tokens == 0 and after.written > 0


def test_a_killed_run_goes_on_where_it_was(tmp_path: Path) -> None:
    scope = scope_of(dataset(samples(4)), "test", wrong_cards=2)
    folder = tmp_path / "results"
    done: list[str] = []

    def progress(doing: str, at: float, total: float) -> None:
        done.append(doing)
        assert 0 < at <= total * 1.0001

    run(
        subject(LikingBackend(card_reader)),
        scope,
        Results(folder, SETTINGS),
        progress=progress,
        cancel=lambda: len(done) > 4,
    )
    first = Results(folder, SETTINGS, resume=True)
    assert report(scope, first, resamples=20)["partial"]
    assert "Partial: not all of 12" in to_markdown(report(scope, first, resamples=20))
    path = folder / "results.jsonl"
    path.write_bytes(path.read_bytes() + b'{"model": "trained", "sam')
    again = Results(folder, SETTINGS, resume=True)
    assert again.rows == first.rows
    run(subject(LikingBackend(card_reader)), scope, again)
    whole = Results(None, SETTINGS)
    run(subject(LikingBackend(card_reader)), scope, whole)
    assert _without_time(Results(folder, SETTINGS, resume=True).rows) == _without_time(whole.rows)
    assert len(whole.rows) == len(again.rows)


def test_a_sample_whose_scores_a_kill_cut_off_is_scored_again(tmp_path: Path) -> None:
    scope = scope_of(dataset(samples(2)), "test", wrong_cards=3)
    backend = LikingBackend(card_reader)
    run(subject(backend), scope, Results(tmp_path, SETTINGS), write=False)
    path = tmp_path / "results.jsonl"
    whole, last = path.read_bytes(), scope.samples[-1].id
    # In the last score of the last sample, where its other scores are on the disk already.
    path.write_bytes(whole[:-12])
    cut = Results(tmp_path, SETTINGS, resume=True)
    assert not cut.scored("trained", last) and cut.scored("trained", scope.samples[0].id)
    assert report(scope, cut, write=False, resamples=20)["partial"]
    run(subject(backend), scope, cut, write=False)
    assert path.read_bytes() == whole
    assert len(cut.rows) == sum(len(scope.variants(one)) for one in scope.samples)


def test_results_with_a_line_for_every_score_are_read_and_added_to(tmp_path: Path) -> None:
    scope = scope_of(dataset(samples(2)), "test", wrong_cards=3)
    backend = LikingBackend(card_reader)
    whole = Results(None, SETTINGS)
    run(subject(backend), scope, whole)
    first = [row for row in whole.rows if row["sample"] == scope.samples[0].id and "variant" in row]
    (tmp_path / "evaluation.json").write_text(json.dumps({"format": 1, **SETTINGS}))
    (tmp_path / "results.jsonl").write_text("".join(json.dumps(row) + "\n" for row in first))
    old = Results(tmp_path, SETTINGS, resume=True)
    assert old.rows == first and old.scored("trained", scope.samples[0].id)
    run(subject(backend), scope, old)
    assert _without_time(Results(tmp_path, SETTINGS, resume=True).rows) == _without_time(whole.rows)


def test_a_full_disk_is_one_sentence_and_what_it_did_not_take_does_not_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, text: str) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    results = Results(tmp_path, SETTINGS)
    monkeypatch.setattr("masa_training.append_only.append_lines", full)
    with pytest.raises(TrainingError, match=r"results.jsonl: cannot be written \(No space left .* --resume"):
        results.add([{"model": "trained", "sample": "s", "generated": {}}])
    assert not results.generated("trained", "s") and not results.rows


def _without_time(rows: Sequence[Any]) -> list[str]:
    kept = [json.loads(json.dumps(row)) for row in rows]
    for row in kept:
        if "generated" in row:
            row["generated"].pop("seconds")
    return sorted(json.dumps(row, sort_keys=True) for row in kept)


def test_results_are_neither_overwritten_nor_mixed(tmp_path: Path) -> None:
    Results(tmp_path, SETTINGS).add([{"model": "trained", "sample": "s", "generated": {}}])
    with pytest.raises(TrainingError, match="--resume"):
        Results(tmp_path, SETTINGS)
    with pytest.raises(TrainingError, match="differing: seed"):
        Results(tmp_path, {**SETTINGS, "seed": 1}, resume=True)
    (tmp_path / "results.jsonl").write_text("[]\n")
    with pytest.raises(TrainingError, match="no result"):
        Results(tmp_path, SETTINGS, resume=True)


def test_a_folder_belongs_to_an_evaluation_with_its_first_result(tmp_path: Path) -> None:
    failed = Results(tmp_path / "out", SETTINGS)
    assert not failed.rows and not list((tmp_path / "out").iterdir())
    other = Results(tmp_path / "out", {**SETTINGS, "seed": 1})
    other.add([{"model": "trained", "sample": "s", "generated": {}}])
    with pytest.raises(TrainingError, match="differing: seed"):
        Results(tmp_path / "out", SETTINGS, resume=True)


def test_what_cannot_be_evaluated_is_one_sentence() -> None:
    good = dataset(samples(2))
    with pytest.raises(TrainingError, match="no split 'dev'"):
        scope_of(good, "dev")
    with pytest.raises(TrainingError, match="validation split is empty"):
        scope_of(good, "validation")
    with pytest.raises(TrainingError, match="one card only"):
        scope_of(dataset([sample(0, 0)]), "test")
    with pytest.raises(TrainingError, match="text language"):
        check_fit(subject(LikingBackend(card_reader), language="text"), good)
    with pytest.raises(TrainingError, match="sample s0-0 has"):
        small = subject(LikingBackend(card_reader), context_length=100)
        run(small, scope_of(good, "test"), Results(None, SETTINGS))


def test_a_held_out_backbone_is_compared_with_the_cards_of_the_data_set() -> None:
    alone: list[Sample] = [sample(tree, 0, generated=False) for tree in range(2)]
    cards = {f"reader-{n}": {"family": f"Reader{n}"} for n in range(4)}
    scope = scope_of(dataset(alone, cards=cards), "test")
    wrong = {v.backbone for v in variants(alone[0], scope.pool, wrong_cards=8, seed=0) if "wrong" in v.arms}
    assert wrong == {"reader-1", "reader-2", "reader-3"}
