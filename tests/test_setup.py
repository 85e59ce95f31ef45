"""Set-up chooses compiler options that run on the CPU it finds, and does no work twice."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import given
from hypothesis import strategies as st
from packaging.utils import canonicalize_name

from masa import cpu

ROOT = Path(__file__).resolve().parent.parent

SAPPHIRE_RAPIDS = """\
processor\t: 0
vendor_id\t: GenuineIntel
model name\t: Intel(R) Xeon(R) Platinum 8480+
flags\t\t: fpu sse sse2 ssse3 fma cx16 sse4_1 sse4_2 avx f16c bmi1 avx2 bmi2 avx512f avx512dq avx512cd \
avx512bw avx512vl avx_vnni avx512_bf16 avx512vbmi avx512_vbmi2 avx512_vnni amx_bf16 avx512_fp16 amx_tile \
amx_int8 pni
bugs\t\t: spectre_v1
"""
SKYLAKE_SERVER = """\
model name\t: Intel(R) Xeon(R) Gold 6148
flags\t\t: sse4_2 avx f16c fma avx2 bmi2 avx512f avx512dq avx512cd avx512bw avx512vl
"""
ALDER_LAKE = "model name\t: 12th Gen Intel(R) Core(TM) i7\nflags\t\t: sse4_2 avx f16c fma avx2 bmi2 avx_vnni\n"
HASWELL = "model name\t: Intel(R) Core(TM) i5-4570\nflags\t\t: pni ssse3 sse4_2 avx f16c fma avx2 bmi2\n"
SANDY_BRIDGE = "model name\t: Intel(R) Core(TM) i5-2400\nflags\t\t: pni ssse3 sse4_2 avx\n"
ATOM = "model name\t: Intel(R) Atom(TM) CPU N450\nflags\t\t: fpu mmx sse sse2 pni ssse3\n"
PI_4 = "processor\t: 0\nFeatures\t: fp asimd evtstrm crc32 cpuid\nCPU part\t: 0xd08\n"
GRAVITON_2 = "Features\t: fp asimd evtstrm aes atomics fphp asimdhp cpuid asimdrdm lrcpc dcpop asimddp\n"
GRAVITON_3 = "Features\t: fp asimd aes atomics fphp asimdhp asimddp sve i8mm bf16\n"
BIG_LITTLE = "processor\t: 0\nFeatures\t: fp asimd\n\nprocessor\t: 1\nFeatures\t: fp asimd asimdhp asimddp\n"


def flags(text: str, machine: str = "x86_64", *, bits: int = 64) -> dict[str, str]:
    return cpu.cmake_flags(cpu.parse_cpuinfo(text, machine, bits=bits))


def on(text: str) -> set[str]:
    return {name for name, value in flags(text).items() if value == "ON"}


BASE = {"GGML_SSE42", "GGML_AVX", "GGML_F16C", "GGML_FMA", "GGML_BMI2", "GGML_AVX2"}


def test_a_machine_with_amx_gets_avx512_in_full_and_never_amx() -> None:
    extra = {"GGML_AVX512", "GGML_AVX512_VBMI", "GGML_AVX512_VNNI", "GGML_AVX512_BF16"}
    assert on(SAPPHIRE_RAPIDS) == BASE | extra
    chosen = flags(SAPPHIRE_RAPIDS)
    assert chosen["GGML_NATIVE"] == "OFF"
    assert {chosen[f"GGML_AMX_{kind}"] for kind in ("TILE", "INT8", "BF16")} == {"OFF"}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (SKYLAKE_SERVER, BASE | {"GGML_AVX512"}),
        (ALDER_LAKE, BASE | {"GGML_AVX_VNNI"}),
        (HASWELL, BASE),
        (SANDY_BRIDGE, {"GGML_SSE42", "GGML_AVX"}),
        (ATOM, set()),
        ("", set()),
    ],
    ids=["avx512 without extensions", "avx-vnni", "avx2 only", "avx only", "no avx", "unreadable cpuinfo"],
)
def test_an_x86_machine_gets_exactly_what_it_has(text: str, expected: set[str]) -> None:
    assert on(text) == expected
    # Off is said aloud: llama.cpp turns some of these on by itself where GGML_NATIVE is off.
    assert all(flags(text)[name] == "OFF" for name in BASE - expected)


@pytest.mark.parametrize(
    ("text", "architecture"),
    [
        (PI_4, "armv8-a"),
        (GRAVITON_2, "armv8.2-a+dotprod+fp16"),
        (GRAVITON_3, "armv8.2-a+dotprod+fp16+i8mm"),
        (BIG_LITTLE, "armv8-a"),
        ("", "armv8-a"),
    ],
    ids=[
        "no dot products",
        "dot products",
        "int8 matrices",
        "the weakest core decides",
        "unreadable cpuinfo",
    ],
)
def test_an_arm_machine_gets_the_architecture_of_its_features(text: str, architecture: str) -> None:
    chosen = flags(text, "aarch64")
    assert chosen["GGML_NATIVE"] == "OFF"
    assert chosen["GGML_CPU_ARM_ARCH"] == architecture
    assert not [name for name in chosen if "AVX" in name or "AMX" in name]


def test_a_32_bit_system_on_a_64_bit_arm_core_is_left_to_llama_cpp() -> None:
    assert "GGML_CPU_ARM_ARCH" not in flags(GRAVITON_2, "aarch64", bits=32)


def test_a_mac_keeps_what_its_own_build_chooses() -> None:
    for machine in ("aarch64", "x86_64"):
        chosen = cpu.cmake_flags(cpu.Cpu("Darwin", machine))
        assert chosen["GGML_NATIVE"] == "OFF"
        assert not {name for name in chosen if "METAL" in name or "AVX" in name or "ARM" in name}


@given(st.sets(st.sampled_from(sorted(set(SAPPHIRE_RAPIDS.split()) | set(GRAVITON_3.split())))))
def test_nothing_is_turned_on_that_the_cpu_lacks(features: set[str]) -> None:
    machine = cpu.Cpu("Linux", "x86_64", features=frozenset(features))
    chosen = cpu.cmake_flags(machine)
    assert cpu.usable_features(machine) <= features
    assert chosen["GGML_AVX2"] == "OFF" or "avx2" in features
    assert chosen["GGML_AVX512"] == "OFF" or {"avx512f", "avx512bw", "avx512vl", "avx512dq"} <= features
    assert not [name for name, value in chosen.items() if "AMX" in name and value != "OFF"]


def test_an_old_compiler_gets_a_slower_build_instead_of_a_failing_one() -> None:
    new = {"-mavx512bf16", "-mavxvnni"}
    chosen = cpu.cmake_flags(cpu.parse_cpuinfo(SAPPHIRE_RAPIDS, "x86_64"), lambda option: option not in new)
    assert (chosen["GGML_AVX512_BF16"], chosen["GGML_AVX512_VNNI"]) == ("OFF", "ON")
    arm = cpu.parse_cpuinfo(GRAVITON_3, "aarch64", bits=64)
    chosen = cpu.cmake_flags(arm, lambda option: "i8mm" not in option)
    assert chosen["GGML_CPU_ARM_ARCH"] == "armv8.2-a+dotprod+fp16"


@pytest.mark.skipif(os.name == "nt", reason="asks a compiler of Unix")
def test_the_compiler_is_asked_and_its_absence_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compiler = tmp_path / "cc"
    compiler.write_text('#!/bin/sh\ncase "$1" in -mknown) exit 0;; *) exit 1;; esac\n')
    compiler.chmod(0o755)
    monkeypatch.setenv("CC", str(compiler))
    assert cpu.compiler_accepts("-mknown")
    assert not cpu.compiler_accepts("-mnew")
    monkeypatch.setenv("CC", str(tmp_path / "none"))
    assert cpu.compiler_accepts("-mnew")


def test_what_the_user_set_comes_first_and_is_not_said_twice() -> None:
    machine = cpu.parse_cpuinfo(SAPPHIRE_RAPIDS, "x86_64")
    line = cpu.cmake_args(machine, "-DGGML_CUDA=ON -DGGML_NATIVE:BOOL=ON")
    assert line.startswith("-DGGML_CUDA=ON -DGGML_NATIVE:BOOL=ON -D")
    names = re.findall(r"-D(\w+)", line)
    assert len(names) == len(set(names))
    assert "-DGGML_AVX512=ON" in line


def test_a_feature_that_the_user_turned_off_takes_along_what_needs_it() -> None:
    line = cpu.cmake_args(cpu.parse_cpuinfo(SAPPHIRE_RAPIDS, "x86_64"), "-DGGML_AVX512=off")
    assert "-DGGML_AVX512_VNNI=OFF" in line and "-DGGML_AVX512_BF16=OFF" in line
    assert "-DGGML_AVX2=ON" in line


def test_compiled_features_are_read_from_the_system_info() -> None:
    info = "CPU : SSE3 = 1 | AVX = 1 | AVX2 = 1 | AVX512 = 0 | AMX_INT8 = 1 | LLAMAFILE = 1 | REPACK = 1 | "
    assert cpu.compiled_features(info) == {"pni", "avx", "avx2", "amx_int8"}
    assert cpu.compiled_features("") == frozenset()


def test_windows_features_come_from_its_codes() -> None:
    assert cpu._windows_features(lambda code: code in (38, 39, 40)) >= {"avx2", "fma", "f16c"}
    assert cpu._windows_features(lambda code: False) == frozenset()


# --- scripts/dev.py ---------------------------------------------------------------------------------


@pytest.fixture
def dev(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> ModuleType:
    """The set-up script as a module, with an environment in a temporary folder and nothing really run."""
    spec = importlib.util.spec_from_file_location("dev", ROOT / "scripts" / "dev.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "dev", module)  # where dataclasses look for it
    spec.loader.exec_module(module)
    for name in ("MAIN", "NEWEST"):
        place = getattr(module, name)
        monkeypatch.setattr(module, name, replace(place, folder=tmp_path / place.folder.name))
    monkeypatch.setenv("MASA_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("CMAKE_ARGS", raising=False)
    monkeypatch.delenv("MASA_WHEELS", raising=False)
    return module


@pytest.fixture
def calls(dev: ModuleType, monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """What the script would have run. `venv` makes its folder, `pip wheel` its wheel."""
    made: list[list[str]] = []

    def run(
        command: Sequence[object], *, check: bool = True, environment: Mapping[str, str] | None = None, minutes: int = 0
    ) -> int:
        words = [str(word) for word in command]
        made.append(words)
        if words[1:4] == ["-m", "pip", "install"]:
            assert environment is not None and environment["PIP_CONSTRAINT"].startswith("scripts/")
        if "venv" in words:
            python = Path(words[-1]) / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
            python.parent.mkdir(parents=True)
            python.touch()
        if "wheel" in words:
            assert environment is not None
            assert "-DGGML_NATIVE=OFF" in environment["CMAKE_ARGS"]
            assert int(environment["CMAKE_BUILD_PARALLEL_LEVEL"]) >= 1
            folder = Path(words[words.index("--wheel-dir") + 1])
            (folder / "llama_cpp_python-0.3.36-py3-none-any.whl").touch()
        return 0

    monkeypatch.setattr(dev, "run", run)
    monkeypatch.setattr(dev, "fits", lambda python: False)
    return made


def pip_calls(calls: list[list[str]], word: str) -> list[list[str]]:
    return [call for call in calls if call[1:4] == ["-m", "pip", word]]


def test_set_up_compiles_once_and_the_second_call_does_nothing(dev: ModuleType, calls: list[list[str]]) -> None:
    python = dev.set_up(dev.MAIN, ("llama",))
    assert len(pip_calls(calls, "wheel")) == 1
    assert pip_calls(calls, "install")[-1][-1] == f"{ROOT}[llama]"
    done = len(calls)
    assert dev.set_up(dev.MAIN, ("llama",)) == python
    assert len(calls) == done


def test_whether_a_build_fits_is_asked_without_an_error(dev: ModuleType) -> None:
    words = [sys.executable, "-c", dev._FITS, str(dev.ROOT / "runtime"), dev.llama_range()]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.stdout.strip() in ("true", "false"), done.stderr


def test_another_extra_installs_more_but_takes_the_compiled_wheel_from_the_cache(
    dev: ModuleType, calls: list[list[str]]
) -> None:
    dev.set_up(dev.MAIN, ("llama",))
    dev.set_up(dev.MAIN, ("llama", "dev"))
    assert len(pip_calls(calls, "wheel")) == 1
    assert pip_calls(calls, "install")[-1][-1] == f"{ROOT}[llama,dev]"
    done = len(calls)
    dev.set_up(dev.MAIN, ("llama",))
    assert len(calls) == done, "what was installed for development serves the demo, too"


def test_an_extra_that_cannot_be_installed_is_said_and_not_tried_again(
    dev: ModuleType, calls: list[list[str]], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    dev.set_up(dev.MAIN, dev.MAIN.extras)
    run = dev.run
    monkeypatch.setattr(dev, "run", lambda command, **options: run(command, **options) or "[ray]" in str(command[-1]))
    done = len(calls)
    dev.set_up(dev.MAIN)
    assert [call[-1] for call in calls[done:]] == [f"{ROOT}[alfworld]", f"{ROOT}[ray]"]
    said = capsys.readouterr().out
    assert "extra ray cannot be installed" in said and "alfworld cannot" not in said
    done = len(calls)
    dev.set_up(dev.MAIN)
    assert len(calls) == done


def test_other_compiler_options_compile_again(
    dev: ModuleType, calls: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    dev.set_up(dev.MAIN, ("llama",))
    monkeypatch.setenv("CMAKE_ARGS", "-DGGML_CUDA=ON")
    monkeypatch.setattr(dev, "fits", lambda python: True)
    dev.set_up(dev.MAIN, ("llama",))
    assert len(pip_calls(calls, "wheel")) == 2


def test_the_build_keeps_out_of_pips_cache_which_ignores_compiler_options(
    dev: ModuleType, calls: list[list[str]]
) -> None:
    dev.set_up(dev.MAIN, ("llama",))
    (call,) = pip_calls(calls, "wheel")
    assert "--no-cache-dir" in call and "--no-binary" in call


def test_a_ready_wheel_is_taken_if_it_suits_the_cpu_and_only_then(
    dev: ModuleType, calls: list[list[str]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    ready = tmp_path / "wheels" / "llama_cpp_python-0.3.36-py3-none-linux_x86_64.whl"
    ready.parent.mkdir()
    ready.touch()
    (ready.parent / "llama_cpp_python-0.2.0-py3-none-linux_x86_64.whl").touch()
    monkeypatch.setenv("MASA_WHEELS", str(ready.parent))
    assert dev.ready_wheels() == [ready.resolve()]
    dev.make_venv(dev.MAIN)

    answers = iter([False])  # it was compiled for another CPU
    monkeypatch.setattr(dev, "fits", lambda python: next(answers))
    dev.install_llama(dev.MAIN, "-DGGML_NATIVE=OFF")
    assert len(pip_calls(calls, "wheel")) == 1

    calls.clear()
    answers = iter([True])
    dev.install_llama(dev.MAIN, "-DGGML_NATIVE=OFF")
    assert pip_calls(calls, "install")[-1][-1] == str(ready.resolve())
    assert not pip_calls(calls, "wheel")


def test_a_missing_compiler_is_one_sentence_before_anything_is_downloaded(
    dev: ModuleType, calls: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dev.shutil, "which", lambda *args, **options: None)
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setattr(dev.os, "name", "posix")
    with pytest.raises(dev.SetupError, match=r"no C\+\+ compiler"):
        dev.built_wheel(dev.MAIN, "-DGGML_NATIVE=OFF")
    assert not calls


def test_an_environment_that_does_not_go_together_is_made_anew(
    dev: ModuleType, calls: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    dev.set_up(dev.MAIN, ("llama",))
    run = dev.run
    monkeypatch.setattr(dev, "run", lambda command, **options: run(command, **options) or "check" in command)
    left_over = dev.MAIN.folder / "left over"
    left_over.touch()
    dev.set_up(dev.MAIN, ("llama", "dev"))
    assert not left_over.exists()
    assert pip_calls(calls, "install")[-1][-1] == f"{ROOT}[llama,dev]"


def test_test_runs_every_check_and_fails_if_one_did(
    dev: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ran: list[tuple[str, str]] = []

    def run(command: list[object], *, check: bool = True, environment: dict[str, str] | None = None) -> int:
        ran.append((str(command[0]), " ".join(map(str, command[2:]))))
        assert environment is not None and environment["MASA_REQUIRE_MODELS"]
        return 1 if command[2] == "mypy" else 0

    monkeypatch.setattr(dev, "run", run)
    monkeypatch.setattr(dev, "set_up", lambda environment: environment.name)
    monkeypatch.setattr(dev, "fetch_weights", lambda python: None)
    monkeypatch.setattr(dev, "newest", lambda: 0)
    assert dev.test(["-x"]) == 1
    assert ran == [("main", words) for words in ("ruff check .", "ruff format --check .", "mypy", "pytest -x")]
    assert "failed: mypy" in capsys.readouterr().err


@pytest.mark.parametrize("code", [0, 1, 124])
def test_what_the_newest_versions_do_is_told_and_fails_nothing(
    dev: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], code: int
) -> None:
    versions = {"main": {"openai": "3.1", "click": "8.5"}, "newest": {"openai": "3.2", "click": "8.5", "more": "1"}}
    monkeypatch.setattr(dev, "set_up", lambda environment: environment.name)
    monkeypatch.setattr(dev, "installed", lambda python: versions[python])
    monkeypatch.setattr(dev, "newer", lambda python: ["openai", "more"])
    monkeypatch.setattr(dev, "run", lambda command, **options: code)
    assert dev.newest() == 0
    said = capsys.readouterr().out
    assert "openai 3.1 -> 3.2" in said and "more none -> 1" in said and "click" not in said
    assert ("pass" in said) == (code == 0)


def test_without_newer_versions_no_environment_is_made_for_them(
    dev: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[str] = []
    monkeypatch.setattr(dev, "set_up", lambda environment: made.append(environment.name))
    monkeypatch.setattr(dev, "newer", lambda python: [])
    assert dev.newest() == 0
    assert made == ["main"]


def test_the_lock_has_a_version_in_the_range_of_everything_that_is_installed(dev: ModuleType) -> None:
    """For this Python and platform; what `pyproject.toml` asks for must not drift away from the lock."""
    from packaging.requirements import Requirement

    environment = dev.MAIN
    locked: dict[str, str] = {}
    for line in environment.versions.read_text("utf-8").splitlines():
        if not line.startswith("#"):
            pin = Requirement(line)
            assert str(pin.specifier).startswith("=="), line
            if pin.marker is None or pin.marker.evaluate():
                locked[canonicalize_name(pin.name)] = str(pin.specifier)[2:]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    wanted = list(project["dependencies"])
    for extra in (*environment.extras, *environment.optional):
        wanted += project["optional-dependencies"][extra]
    for requirement in map(Requirement, wanted):
        if requirement.name != project["name"]:
            assert requirement.specifier.contains(locked[canonicalize_name(requirement.name)]), requirement
    assert len(locked) > 100, "what comes along is locked, too"


def test_the_script_explains_itself_to_a_bare_python() -> None:
    script = ROOT / "scripts" / "dev.py"
    run = subprocess.run([sys.executable, "-S", script], capture_output=True, text=True, check=False)
    assert run.returncode == 0 and "dev.py test" in run.stdout
    run = subprocess.run([sys.executable, "-S", script, "deploy"], capture_output=True, text=True, check=False)
    assert run.returncode == 2


def test_the_demo_rewrites_a_bank_that_loads(dev: ModuleType) -> None:
    from masa import load_bank

    assert len(load_bank(dev.DEMO_BANK)) > 0


def test_ci_runs_the_readmes_test_command_and_nothing_else() -> None:
    readme = (ROOT / "README.md").read_text("utf-8")
    lines = [line for line in (ROOT / ".ci" / "run").read_text("utf-8").splitlines() if "dev.py" in line]
    assert lines == ["exec python3 scripts/dev.py test"]
    commands = re.findall(r"^python3 scripts/dev\.py (\w+)", readme, flags=re.MULTILINE)
    assert commands[:2] == ["demo", "test"]
    if os.name == "posix":
        assert os.access(ROOT / ".ci" / "run", os.X_OK)
