"""Looks at this machine and says what masa would trip over, and how to put it right.

Every check is a function that returns what it found; none changes anything for good, and none can take the
process down: llama.cpp is only ever started in another one (`masa.llama_trial`).
"""

from __future__ import annotations

import contextlib
import os
import platform
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from masa import cpu as cpus
from masa import extras
from masa.cpu import Cpu
from masa.errors import MasaError
from masa.llama_trial import Trial, run_trial

if TYPE_CHECKING:
    from masa.cache import RewriteCache

Status = Literal["ok", "warn", "fail"]

DEFAULT_REWRITER = "smollm2-135m"
_ROOM = 500_000_000  # bytes: the default weights, with room for their download
_LLAMA = "llama-cpp-python"
_ONNX_BUILDS = ("onnxruntime", "onnxruntime-gpu", "onnxruntime-directml")


@dataclass(frozen=True, slots=True)
class Check:
    """One finding. `advice` says what to do and is empty where there is nothing to do.

    "fail" means that rewriting will not work, "warn" that it works worse than it could or may not.
    """

    name: str
    status: Status
    found: str
    advice: str = ""


def examine(*, rewriter: str = DEFAULT_REWRITER, timeout: float = 120.0) -> list[Check]:
    """Every check, in the order in which a person should read them.

    `timeout`, in seconds, is for the trial run of llama.cpp on the rewriter's weights.
    """
    weights, weights_check = _weights(rewriter)
    results = [_guarded("python", check_python), _guarded("cpu", lambda: check_cpu(cpus.detect()))]
    found = _llama_installed()
    if found is None:
        trial = None
        results.append(_guarded(_LLAMA, lambda: check_no_llama(rewriter)))
    else:
        trial = run_trial(weights, timeout=timeout)
        results.append(_guarded(_LLAMA, lambda: check_llama(found)))
        results.append(_guarded("llama.cpp build", lambda: check_build(trial, cpus.detect())))
        results.append(_guarded("llama.cpp run", lambda: check_run(trial, cpus.detect())))
    results.append(_guarded("llguidance", check_guidance))
    if (onnx := check_onnx([name for name in _ONNX_BUILDS if _installed(name)])) is not None:
        results.append(onnx)
    results.append(weights_check)
    if weights is not None:
        results.append(_guarded("form", lambda: check_form(rewriter)))
    results.append(_guarded("data folder", lambda: check_folder("data folder", _folder("data"), _ROOM)))
    results.append(_guarded("cache folder", lambda: check_folder("cache folder", _folder("cache"), 50_000_000)))
    results.append(_guarded("finished rewrites", check_cache))
    results.append(_guarded("threads", check_threads))
    results.extend(check_extras())
    return results


def worst(checks: Sequence[Check]) -> Status:
    """The gravest status among the checks; "ok" when there are none."""
    order: tuple[Status, ...] = ("ok", "warn", "fail")
    return max((check.status for check in checks), key=order.index, default="ok")


def recommended_cmake_args() -> str:
    """`CMAKE_ARGS` for this CPU and compiler; what the environment already says comes first and wins."""
    return cpus.cmake_args(cpus.detect(), os.environ.get("CMAKE_ARGS", ""), cpus.compiler_accepts)


def install_line() -> str:
    """The command that installs llama-cpp-python so that it runs on this machine."""
    return f'CMAKE_ARGS="$(masa doctor --cmake-args)" {extras.pip_install("llama")}'


def reinstall_line() -> str:
    """The command that replaces a llama-cpp-python which was compiled for something else.

    pip's cache is kept out of it: that still holds the former build, whatever CMAKE_ARGS say now.
    """
    wanted = next((str(need) for need in extras.requirements() if need.name == _LLAMA), _LLAMA)
    return (
        'CMAKE_ARGS="$(masa doctor --cmake-args)" pip install --force-reinstall --no-deps '
        f'--no-cache-dir --no-binary {_LLAMA} "{wanted}"'
    )


def check_python() -> Check:
    """Which Python this is; pip already refused one that is too old."""
    return Check("python", "ok", f"{platform.python_version()} ({sys.executable})")


def check_cpu(cpu: Cpu) -> Check:
    if cpu.features is None and cpu.system != "Darwin":
        advice = "the recommended build uses none; set CMAKE_ARGS yourself if you know this CPU"
        return Check("cpu", "warn", cpu.summary, advice)
    return Check("cpu", "ok", cpu.summary)


def check_llama(found: extras.Found) -> Check:
    text = f"{found.version}, in the supported range {found.requirement.range or '(any)'}"
    if found.fits:
        return Check(_LLAMA, "ok", text)
    text = f"{found.version}, outside the supported range {found.requirement.range}"
    return Check(_LLAMA, "fail", text, reinstall_line())


def check_no_llama(rewriter: str) -> Check:
    """llama.cpp is not installed; a rewriter that runs in ONNX Runtime does without."""
    from masa.artifact import load_artifact
    from masa.forms.finding import find_form

    found = "not installed"
    with contextlib.suppress(MasaError):  # the check of the weights tells
        artifact = load_artifact(rewriter)
        if artifact.kind == "onnx" or find_form(artifact) is not None:
            found += f"; {rewriter} runs in ONNX Runtime, GGUF backbones need it"
            return Check(_LLAMA, "ok", found, f"for masa check and masa profile: {install_line()}")
    return Check(_LLAMA, "fail", found, install_line())


def check_build(trial: Trial, cpu: Cpu) -> Check:
    """What llama.cpp was compiled with, against what this CPU has."""
    name = "llama.cpp build"
    if trial.reached == "start":
        return Check(name, "fail", "unknown: llama_cpp cannot be imported", reinstall_line())
    compiled = cpus.compiled_features(trial.system_info)
    words = _features(compiled) or "no vector extensions"
    found = f"{words}{', GPU offload' if trial.gpu else ''}"
    if "amx_int8" in compiled:
        lead = "AMX is compiled in, which many virtual machines announce but do not allow"
        return Check(name, "warn" if trial.works else "fail", f"{lead} ({found})", reinstall_line())
    if cpu.features is not None:
        missing = compiled - cpu.features
        if missing:
            return Check(name, "fail", f"needs {_features(missing)}, which this CPU lacks", reinstall_line())
        unused = cpus.usable_features(cpu) - compiled
        if unused:
            return Check(name, "warn", f"{found}; this CPU also has {_features(unused)}", reinstall_line())
    return Check(name, "ok", found)


def check_run(trial: Trial, cpu: Cpu) -> Check:
    """Whether llama.cpp computes tokens here without dying."""
    name = "llama.cpp run"
    if trial.crash == "SIGILL":
        compiled = cpus.compiled_features(trial.system_info)
        cause = "an instruction that this CPU does not run"
        if "amx_int8" in compiled:
            cause = "an AMX instruction, which this machine does not allow although its CPU announces AMX"
            if "amx_int8" not in (cpu.features or ()):
                cause = "an AMX instruction, which this CPU does not have"
        found = f"died with SIGILL {_doing(trial)}: it was compiled with {cause}"
        return Check(name, "fail", found, reinstall_line())
    if trial.crash is not None:
        return Check(name, "fail", f"died with {trial.crash} {_doing(trial)}", reinstall_line())
    if trial.error is not None:
        return Check(name, "fail", f"failed {_doing(trial)}: {trial.error}", reinstall_line())
    if trial.tried == "import":
        advice = f"run: masa pull {DEFAULT_REWRITER}, then masa doctor again"
        return Check(name, "warn", "imports; not tried further, since there are no weights", advice)
    if not trial.works:
        return Check(name, "fail", f"ended early {_doing(trial)}", reinstall_line())
    return Check(name, "ok", "loads the weights and computes tokens")


def check_guidance() -> Check:
    """llguidance keeps the rewriter's output well-formed; the extra `llama` brings it."""
    need = next((need for need in extras.requirements() if need.name == "llguidance"), None)
    found = extras.find(need or extras.Requirement("llguidance", "", "llama"))
    if found.version is None:
        return Check("llguidance", "fail", "not installed", install_line())
    if not found.fits:
        text = f"{found.version}, outside the supported range {found.requirement.range}"
        return Check("llguidance", "fail", text, f'pip install "{found.requirement}"')
    return Check("llguidance", "ok", found.version)


def check_onnx(builds: Sequence[str]) -> Check | None:
    """Which builds of ONNX Runtime are installed, for ONNX rewriters; None without one."""
    if len(builds) < 2:
        return Check("onnxruntime", "ok", builds[0]) if builds else None
    found = f"{' and '.join(builds)} are both installed and overwrite each other's files"
    return Check("onnxruntime", "warn", found, f"pip uninstall {' '.join(builds)}, then install the one you want")


def check_form(rewriter: str) -> Check:
    """Whether the rewriter runs as what this CPU computes fastest, or as it was shipped, and why; either works."""
    from masa.artifact import load_artifact
    from masa.forms.finding import choose_form, missing_packages

    artifact = load_artifact(rewriter)
    form, why = choose_form(artifact)
    if form is not None:
        return Check("form", "ok", f"{form.quantization}, {why}")
    found, advice = f"{artifact.quantization}, as shipped: {why}", ""
    if artifact.kind == "gguf":
        first = f"{extras.pip_install('onnx')}, then " if missing_packages(to_make=True) else ""
        advice = f"faster after: {first}masa pull {artifact.name}"
    return Check("form", "ok", found, advice)


def check_folder(name: str, folder: Path, room: int) -> Check:
    """Whether masa can write there, and whether `room` bytes are free. What does not exist stays so."""
    import shutil
    import tempfile

    there = folder
    while not there.exists() and there != there.parent:
        there = there.parent
    advice = "set MASA_HOME to a folder that you may write to and that has room"
    try:
        with tempfile.TemporaryFile(dir=there):
            pass
        free = shutil.disk_usage(there).free
    except OSError as error:
        return Check(name, "fail", f"{folder}: cannot be written ({error.strerror or error})", advice)
    found = f"{folder}, {free / 1e9:.1f} GB free"
    return Check(name, "warn", found, advice) if free < room else Check(name, "ok", found)


def check_threads(quota: float | None = None) -> Check:
    """Cores this process may use. `quota` is a container's limit in cores, read from cgroups when None."""
    cores = cpus.usable_cores()
    quota = quota if quota is not None else _cgroup_quota()
    found = f"{cores} cores for this process"
    if quota is not None and quota < cores:
        threads = max(1, int(quota))
        found += f", but a container limit of {quota:g}"
        return Check("threads", "warn", found, f"more threads than that slow decoding: --threads {threads}")
    return Check("threads", "ok", found)


def check_extras() -> list[Check]:
    """One check for each extra of the distribution; an extra that is not installed is no fault."""
    needs = extras.requirements()
    if not needs:
        found = "masa runs from its source without being installed, so they are unknown"
        return [Check("extras", "warn", found, "pip install -e .")]
    checks = []
    for extra in dict.fromkeys(need.extra for need in needs):
        all_found = [extras.find(need) for need in needs if need.extra == extra]
        missing = [found.requirement.name for found in all_found if found.version is None]
        wrong = [f"{found.requirement.name} {found.version}" for found in all_found if not found.fits]
        wrong = [text for text in wrong if not text.endswith("None")]
        name = f"extra {extra}" if extra else "core dependencies"
        words = [f"missing: {', '.join(missing)}"] if missing else []
        words += [f"outside the supported range: {', '.join(wrong)}"] if wrong else []
        status: Status = "ok" if extra or not words else "fail"
        if wrong and extra:
            status = "warn"
        checks.append(Check(name, status, "; ".join(words) or "installed", extras.pip_install(extra) if words else ""))
    return checks


def _guarded(name: str, check: Callable[[], Check]) -> Check:
    try:
        return check()
    except Exception as error:  # a doctor that dies helps nobody
        return Check(name, "fail", f"the check itself failed: {error or type(error).__name__}")


def _weights(rewriter: str) -> tuple[Path | None, Check]:
    from masa.artifact import load_artifact

    try:
        artifact = load_artifact(rewriter)
    except MasaError as error:
        return None, Check("weights", "fail", str(error))  # the sentence says what to do
    except Exception as error:
        return None, Check("weights", "fail", f"the check itself failed: {error or type(error).__name__}")
    path = artifact.weights_path
    # llama.cpp is tried on what it can load.
    tried = path if artifact.kind == "gguf" else None
    return tried, Check("weights", "ok", f"{rewriter}: {path}, checksum verified")


def _llama_installed() -> extras.Found | None:
    need = next((need for need in extras.requirements() if need.name == _LLAMA), None)
    found = extras.find(need or extras.Requirement(_LLAMA, "", "llama"))
    return None if found.version is None else found


def _installed(name: str) -> bool:
    return extras.find(extras.Requirement(name, "", "")).version is not None


def _folder(kind: Literal["data", "cache"]) -> Path:
    from masa.folders import cache_dir, data_dir

    return data_dir() if kind == "data" else cache_dir()


def _features(names: frozenset[str]) -> str:
    return " ".join(sorted(cpus.display_name(name) for name in names))


def _doing(trial: Trial) -> str:
    words = {"import": "while it was imported", "load": "while it loaded the weights"}
    return words.get(trial.next_stage, "while it computed the first tokens")


def _cgroup_quota() -> float | None:
    try:
        limit, period = Path("/sys/fs/cgroup/cpu.max").read_text("ascii").split()
        return None if limit == "max" else int(limit) / int(period)
    except (OSError, ValueError):
        return None


def check_cache() -> Check:
    """How much of the cache of finished rewrites is used; `masa rewrite` takes groups from it that it wrote before."""
    found = kept_rewrites().stats()
    used = f"{found.entries:,} group{'' if found.entries == 1 else 's'}, {found.size:,} of {found.max_bytes:,} bytes"
    return Check("finished rewrites", "ok", f"{found.directory}: {used}")


def kept_rewrites() -> RewriteCache:
    """The cache that `masa rewrite` uses."""
    from masa.cache import RewriteCache

    return RewriteCache(_folder("cache") / "rewrites")
