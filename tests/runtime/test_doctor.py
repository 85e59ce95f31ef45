"""The doctor names what is wrong and how to put it right, and survives everything it looks at."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from tests.runtime.artifact_samples import write_artifact

from masa import cpu, doctor, extras
from masa.doctor import Check
from masa.llama_trial import Trial

FEATURES = frozenset({"pni", "ssse3", "sse4_2", "avx", "avx2", "fma", "f16c", "bmi2"})
AVX2 = cpu.Cpu("Linux", "x86_64", "Haswell", FEATURES)
WITH_AMX = cpu.Cpu("Linux", "x86_64", "Xeon", FEATURES | {"amx_int8", "amx_tile"})
INFO = "CPU : SSE3 = 1 | SSSE3 = 1 | AVX = 1 | AVX2 = 1 | F16C = 1 | FMA = 1 | BMI2 = 1 | "
AMX_INFO = INFO + "AMX_INT8 = 1 | "


def by_name(checks: list[Check]) -> dict[str, Check]:
    return {check.name: check for check in checks}


def test_a_death_by_amx_is_told_in_words_with_the_line_that_mends_it() -> None:
    trial = Trial("load", "decode", "0.3.36", AMX_INFO, crash="SIGILL")
    check = doctor.check_run(trial, WITH_AMX)
    assert check.status == "fail"
    assert "died with SIGILL while it computed the first tokens" in check.found
    assert "AMX" in check.found and "does not allow" in check.found
    assert check.advice.startswith('CMAKE_ARGS="$(masa doctor --cmake-args)" pip install --force-reinstall')
    assert "--no-cache-dir" in check.advice
    assert doctor.check_build(trial, WITH_AMX).status == "fail"


def test_amx_on_a_cpu_without_it_is_called_what_it_is() -> None:
    check = doctor.check_run(Trial("import", "decode", "0.3.36", AMX_INFO, crash="SIGILL"), AVX2)
    assert "an AMX instruction, which this CPU does not have" in check.found
    assert "while it loaded the weights" in check.found


def test_amx_that_works_is_a_warning() -> None:
    check = doctor.check_build(Trial("decode", "decode", "0.3.36", AMX_INFO), WITH_AMX)
    assert check.status == "warn" and "AMX" in check.found


def test_a_build_for_a_better_cpu_fails_and_names_what_is_missing() -> None:
    check = doctor.check_build(Trial("import", "import", "0.3.36", INFO + "AVX512 = 1 | "), AVX2)
    assert check.status == "fail" and "needs AVX512, which this CPU lacks" in check.found


def test_a_build_for_a_lesser_cpu_is_a_warning_and_names_what_is_unused() -> None:
    check = doctor.check_build(Trial("decode", "decode", "0.3.36", "CPU : SSE3 = 1 | AVX = 1 | "), AVX2)
    assert check.status == "warn" and "AVX2" in check.found and check.advice


def test_the_recommended_build_passes() -> None:
    trial = Trial("decode", "decode", "0.3.36", INFO)
    assert doctor.check_build(trial, WITH_AMX).status == "ok"
    assert doctor.check_run(trial, WITH_AMX) == Check("llama.cpp run", "ok", "loads the weights and computes tokens")


@pytest.mark.parametrize(
    ("trial", "status", "words"),
    [
        (Trial("start", "decode", crash="SIGSEGV"), "fail", "died with SIGSEGV while it was imported"),
        (
            Trial("import", "decode", error="ValueError: bad"),
            "fail",
            "loaded the weights: ValueError",
        ),
        (Trial("import", "import", "0.3.36", INFO), "warn", "there are no weights"),
        (Trial("load", "decode", "0.3.36", INFO), "fail", "ended early"),
    ],
)
def test_other_ends_of_the_trial_run(trial: Trial, status: str, words: str) -> None:
    check = doctor.check_run(trial, AVX2)
    assert check.status == status and words in check.found and check.advice


def test_a_version_outside_the_range_fails() -> None:
    need = extras.Requirement("llama-cpp-python", ">=0.3.36,<0.3.37", "llama")
    assert doctor.check_llama(extras.Found(need, "0.3.36")).status == "ok"
    old = doctor.check_llama(extras.Found(need, "0.2.90"))
    assert old.status == "fail" and "0.2.90" in old.found and old.advice


def test_unknown_features_are_a_warning_but_not_on_a_mac() -> None:
    assert doctor.check_cpu(cpu.Cpu("FreeBSD", "x86_64")).status == "warn"
    assert doctor.check_cpu(cpu.Cpu("Darwin", "aarch64")).status == "ok"


def test_a_folder_that_does_not_exist_yet_is_judged_by_its_parent_and_not_made(tmp_path: Path) -> None:
    folder = tmp_path / "a" / "b"
    assert doctor.check_folder("data folder", folder, 1).status == "ok"
    assert not folder.exists() and not list(tmp_path.iterdir())


def test_too_little_room_is_a_warning_and_a_file_in_the_way_a_failure(tmp_path: Path) -> None:
    assert doctor.check_folder("data folder", tmp_path, 10**18).status == "warn"
    (tmp_path / "file").touch()
    check = doctor.check_folder("data folder", tmp_path / "file" / "data", 1)
    assert check.status == "fail" and "MASA_HOME" in check.advice


def test_a_container_limit_below_the_cores_advises_fewer_threads() -> None:
    assert "--threads 1" in doctor.check_threads(0.5).advice
    assert doctor.check_threads(10_000.0).status == "ok"


def test_every_extra_has_a_check_and_what_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    needs = (
        extras.Requirement("pytest", "", ""),
        extras.Requirement("no-such-distribution-of-anyone", ">=1", "training"),
        extras.Requirement("pytest", "<0.1", "dev"),
    )
    monkeypatch.setattr(extras, "requirements", lambda: needs)
    checks = by_name(doctor.check_extras())
    assert checks["core dependencies"] == Check("core dependencies", "ok", "installed")
    assert checks["extra training"].status == "ok"
    assert "missing: no-such-distribution-of-anyone" in checks["extra training"].found
    assert checks["extra training"].advice == extras.pip_install("training")
    assert checks["extra dev"].status == "warn" and "pytest" in checks["extra dev"].found


def test_worst_is_the_gravest() -> None:
    checks = [Check("a", "ok", ""), Check("b", "warn", ""), Check("c", "ok", "")]
    assert doctor.worst(checks) == "warn"
    assert doctor.worst([]) == "ok"
    assert doctor.worst([*checks, Check("d", "fail", "")]) == "fail"


def test_no_check_takes_the_others_down(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*args: object) -> Check:
        raise RuntimeError("out of luck")

    names = ("check_python", "check_cpu", "check_guidance", "check_folder", "check_threads")
    for name in names:
        monkeypatch.setattr(doctor, name, broken)
    monkeypatch.setattr(doctor, "run_trial", lambda weights, timeout: Trial("import", "import", "0", INFO))
    checks = by_name(doctor.examine())
    for name in ("python", "cpu", "llguidance", "data folder", "cache folder", "threads"):
        assert checks[name].status == "fail" and "the check itself failed: out of luck" in checks[name].found


def test_missing_llama_cpp_is_one_failure_with_the_line_that_installs_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(doctor, "_llama_installed", lambda: None)
    monkeypatch.setattr("masa.forms.finding.choose_form", lambda artifact: (None, ""))
    checks = by_name(doctor.examine())
    assert checks["llama-cpp-python"].status == "fail"
    assert extras.pip_install("llama") in checks["llama-cpp-python"].advice
    assert "llama.cpp run" not in checks


def test_a_rewriter_that_runs_in_onnx_runtime_needs_no_llama_cpp(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    rewriter = write_artifact(tmp_path / "rewriter")
    monkeypatch.setattr("masa.forms.finding.find_form", lambda artifact: artifact)
    check = doctor.check_no_llama(str(rewriter))
    assert check.status == "ok" and "ONNX Runtime" in check.found and extras.pip_install("llama") in check.advice


def test_missing_weights_are_said_with_what_fetches_them(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MASA_HOME", str(tmp_path))
    monkeypatch.setattr(doctor, "run_trial", lambda weights, timeout: Trial("import", "import", "0", INFO))
    checks = by_name(doctor.examine(rewriter="no-such-rewriter"))
    assert checks["weights"].status == "fail" and "no-such-rewriter" in checks["weights"].found


def test_the_recommended_line_keeps_what_the_user_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CMAKE_ARGS", "-DGGML_CUDA=ON")
    line = doctor.recommended_cmake_args()
    assert line.startswith("-DGGML_CUDA=ON ") and "-DGGML_NATIVE=OFF" in line and "\n" not in line


def test_the_doctor_never_loads_llama_cpp_into_its_own_process(monkeypatch: pytest.MonkeyPatch) -> None:
    class Forbidden:
        def find_spec(self, name: str, path: object = None, target: object = None) -> None:
            if name.split(".")[0] in ("llama_cpp", "llguidance"):
                raise AssertionError(f"{name} was imported into the doctor's process")

    for name in [name for name in sys.modules if name.split(".")[0] in ("llama_cpp", "llguidance")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "meta_path", [Forbidden(), *sys.meta_path])
    monkeypatch.setattr(doctor, "run_trial", lambda weights, timeout: Trial("import", "import", "0", INFO))
    assert not [check for check in doctor.examine() if "the check itself failed" in check.found]


@pytest.mark.model
def test_a_machine_that_was_set_up_is_found_healthy(smollm2: Path) -> None:
    checks = by_name(doctor.examine())
    assert checks["llama.cpp run"].status == "ok"
    assert checks["weights"].status == "ok" and str(smollm2) in checks["weights"].found
