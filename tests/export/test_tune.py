"""Choosing among measured variants; the measurement itself is tried in test_verify.py."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from masa.artifact import Artifact, load_artifact
from masa.errors import MasaError
from masa_export import tune as tuning
from masa_export.cli_tune import tune as command
from masa_export.errors import ExportError
from masa_export.tune import Limits, Variant, choose, find_variants, tune
from masa_export.verify.device_cost import Resources, summarize
from masa_export.verify.stored_report import StoredReport
from tests.runtime.artifact_samples import write_artifact

from .publish_samples import change_manifest, verified


def resources(size: float = 100e6, memory: float = 200e6, seconds: float = 3.0) -> Resources:
    return Resources(int(size), 0.5, 200.0, 50.0, seconds / 3, seconds, 5, int(memory), 1, None)


def variant(
    name: str, found: Resources | None, limits: Limits | None = None, report: StoredReport | None = None
) -> Variant:
    exceeded = (limits or Limits()).exceeded(found) if found else ()
    return Variant(Path(name), name, "gguf", "Q8_0", found, exceeded, report, "" if found else "damaged")


def test_the_best_is_the_first_in_the_wished_order_among_those_that_fit() -> None:
    limits = Limits(size=150e6, seconds=4.0)
    variants = [
        variant("quick-and-large", resources(size=300e6, seconds=1.0), limits),
        variant("small-and-slow", resources(size=50e6, seconds=9.0), limits),
        variant("lean", resources(memory=90e6, seconds=3.5), limits),
        variant("quick", resources(seconds=2.0), limits),
        variant("broken", None, limits),
    ]
    names = {by: choice.best.name for by in ("speed", "memory") if (choice := choose(variants, by)).best}
    assert names == {"speed": "quick", "memory": "lean"}
    assert choose(variants[:2], "speed").best is None
    assert variants[0].exceeded == ("300.0 MB of files, at most 150 are allowed",)


@settings(max_examples=50)
@given(
    st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9), st.integers(1, 9)), max_size=6),
    st.sampled_from(["speed", "memory", "size"]),
    st.tuples(*[st.none() | st.integers(1, 9)] * 3),
)
def test_no_variant_that_fits_beats_the_best(
    figures: list[tuple[int, int, int]], by: str, most: tuple[int | None, int | None, int | None]
) -> None:
    limits = Limits(*most)
    variants = [variant(str(i), resources(*values), limits) for i, values in enumerate(figures)]
    best = choose(variants, by).best
    fitting = [v for v in variants if v.fits]
    assert (best is None) == (not fitting)
    keys = {"speed": "bank_seconds", "memory": "memory", "size": "bytes"}
    if best is not None and best.resources is not None:
        found = [getattr(v.resources, keys[by]) for v in fitting]
        assert getattr(best.resources, keys[by]) == min(found)


def test_what_failed_its_verification_is_never_the_best_and_likeness_needs_one() -> None:
    bad = variant("bad", resources(seconds=1.0), report=StoredReport(False, 0.9))
    good = variant("good", resources(seconds=2.0), report=StoredReport(True, 0.1))
    better = variant("better", resources(seconds=3.0), report=StoredReport(True, 0.01))
    unknown = variant("unknown", resources(seconds=1.5))
    assert choose([bad, good, better, unknown], "speed").best is unknown
    found = choose([bad, good, better, unknown], "likeness")
    assert found.best is better and [v.name for v in found.variants][-1] == "bad"
    with pytest.raises(ExportError, match="masa export verify"):
        choose([unknown], "likeness")


def test_the_report_beside_an_artifact_is_read(tmp_path: Path) -> None:
    passed, stale = verified(tmp_path / "passed", name="passed"), verified(tmp_path / "stale", name="stale")
    change_manifest(stale, context_length=512)
    found = tune([str(passed), str(stale)], Limits(), measure=lambda *args, **kwargs: resources())
    reports = {v.name: v.report for v in found.variants}
    assert reports["passed"] is not None and reports["passed"].divergence == 0.0125
    assert reports["stale"] is None


def test_several_measurements_are_one_by_their_medians() -> None:
    found = summarize([resources(seconds=1.0), resources(seconds=9.0, memory=300e6), resources(seconds=2.0)])
    assert (found.bank_seconds, found.memory, found.runs) == (2.0, 300_000_000, 3)


@pytest.fixture
def artifacts(tmp_path: Path) -> Path:
    for name in ("a", "b"):
        write_artifact(tmp_path / "all" / name, {"weights.gguf": name.encode()}, name=name)
    damaged = write_artifact(tmp_path / "all" / "damaged", name="damaged")
    (damaged / "weights.gguf").write_bytes(b"")
    return tmp_path / "all"


def fake(artifact: Artifact, bank: Path, *, threads: int | None = None) -> Resources:
    return resources(seconds={"a": 2.0, "b": 1.0}[artifact.name])


def test_variants_are_measured_in_turn_and_a_damaged_one_is_told(artifacts: Path) -> None:
    order: list[str] = []
    found = tune([str(artifacts)], Limits(), runs=2, measure=fake, step=lambda name, done, total: order.append(name))
    assert order == ["a", "b", "a", "b"], "what else the machine does must fall on all of them"
    assert found.best is not None and found.best.name == "b"
    assert "weights.gguf" in found.variants[-1].problem and found.variants[-1].resources is None


def test_a_folder_without_artifacts_and_a_missing_bank_cost_one_sentence(tmp_path: Path, artifacts: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ExportError, match="neither an artifact nor a folder of artifacts"):
        find_variants([str(tmp_path / "empty")])
    with pytest.raises(ExportError, match="no such skill bank"):
        tune([str(artifacts)], Limits(), bank=tmp_path / "none.json", measure=fake)


@pytest.mark.parametrize("wrong", ["artifact", "damaged", "not JSON", "no bank", "empty bank"])
def test_what_is_given_wrong_is_told_in_its_own_words_before_anything_is_measured(
    artifacts: Path, tmp_path: Path, wrong: str
) -> None:
    banks = {"not JSON": "skills", "no bank": "[]", "empty bank": '{"general_skills": [], "task_specific_skills": {}}'}
    given, bank = [str(artifacts / "a"), str(artifacts / "b")], None
    if wrong in banks:
        bank = tmp_path / "bank.json"
        bank.write_text(banks[wrong])
    else:
        given.append("smollm2-135n" if wrong == "artifact" else str(artifacts / "damaged"))
    message = {
        "artifact": 'no rewriter "smollm2-135n"; did you mean',
        "damaged": "weights.gguf: .*bytes",
        "not JSON": "bank.json: not JSON",
        "no bank": "bank.json: ",
        "empty bank": "bank.json: the bank is empty",
    }
    measured: list[str] = []
    with pytest.raises(MasaError, match=message[wrong]):
        tune(given, Limits(), bank=bank, measure=fake, step=lambda name, done, total: measured.append(name))
    assert not measured


def test_where_no_artifact_of_a_folder_can_be_loaded_no_limit_is_blamed(artifacts: Path) -> None:
    for name in ("a", "b"):
        (artifacts / name / "weights.gguf").write_bytes(b"")
    done = CliRunner().invoke(command, [str(artifacts)])
    assert isinstance(done.exception, ExportError)
    assert "none of 3 artifacts can be chosen: " in str(done.exception) and "weights.gguf" in str(done.exception)
    assert "limit" not in str(done.exception)


def test_the_command_names_the_best_or_why_there_is_none(artifacts: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = tuning.tune

    def faked(*args: Any, **kwargs: Any) -> Any:
        return whole(*args, **{**kwargs, "measure": fake})

    monkeypatch.setattr(tuning, "tune", faked)
    done = CliRunner().invoke(command, [str(artifacts), "--json"])
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert Path(found["best"]).name == "b" and [entry["fits"] for entry in found["artifacts"]] == [True, True, False]
    shown = CliRunner().invoke(command, [str(artifacts), "--runs", "1"])
    assert "The fastest of 2 that fit" in shown.stdout and "was not verified" in shown.stdout
    assert Path(CliRunner().invoke(command, [str(artifacts), "-q"]).stdout.strip()).name == "b"
    none = CliRunner().invoke(command, [str(artifacts), "--max-size", "1"])
    assert isinstance(none.exception, ExportError) and "none of 3 artifacts fits" in str(none.exception)
    assert load_artifact(artifacts / "a").name == "a"
