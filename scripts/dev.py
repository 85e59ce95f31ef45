#!/usr/bin/env python3
"""Sets up a checkout of masa and runs its main job or its tests. Needs only Python 3.11 or newer.

    python3 scripts/dev.py demo          set up, fetch the weights, rewrite a skill bank of ours
    python3 scripts/dev.py test [-- …]   set up for development, then ruff, mypy, pytest (which gets the rest)
    python3 scripts/dev.py setup         set up for development

llama.cpp is compiled with the options that `masa.cpu` chooses for this CPU. The wheel is kept in the
cache folder under these options, so that a new checkout need not compile again; pip's own cache, which
ignores compiler options, is kept out of it. Environment: MASA_WHEELS, CMAKE_ARGS, see CONTRIBUTING.md.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
STAMP = VENV / "masa-setup.json"
CONSTRAINTS = ROOT / "scripts" / "constraints.txt"
REWRITER = "smollm2-135m"
DEMO_BANK = ROOT / "examples" / "banks" / "household.json"
DEMO_FACTS = ROOT / "examples" / "facts" / "household.yaml"
LLAMA = "llama-cpp-python"
NEEDED = (3, 11)
DEVELOPMENT = ("llama", "onnx", "training", "export", "export-onnx", "dev")
OPTIONAL = ("alfworld", "ray")
"""Extras that tests use where they can be had: the engine of ALFWorld compiles, Ray has no wheel for every Python."""


class SetupError(Exception):
    """What a person must do before this script can go on, in one sentence."""


def main(arguments: list[str]) -> int:
    command = arguments[0] if arguments else "help"
    rest = [word for word in arguments[1:] if word != "--"]
    if command not in ("demo", "test", "setup") or (rest and command != "test"):
        print(__doc__)
        return 0 if command in ("help", "-h", "--help") else 2
    try:
        use_new_enough_python()
        sys.path.insert(0, str(ROOT / "runtime"))  # masa's own modules need the standard library alone
        python = set_up(("llama",) if command == "demo" else DEVELOPMENT)
        if command != "demo":
            add_where_possible(python, OPTIONAL)
        if command == "setup":
            return 0
        fetch_weights(python)
        return demo(python) if command == "demo" else test(python, rest)
    except SetupError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except subprocess.CalledProcessError as error:
        print(f"error: {shlex.join(map(str, error.cmd))} ended with {error.returncode}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\ninterrupted; the same command goes on from here", file=sys.stderr)
        return 130


# --- what the commands do ---------------------------------------------------------------------------


def demo(python: Path) -> int:
    """Rewrite our bank for the model whose weights are here anyway."""
    script = f"from masa.artifact import load_artifact; print(load_artifact({REWRITER!r}).weights_path)"
    weights = captured([python, "-c", script]).strip()
    code = run([masa(python), "rewrite", DEMO_BANK, "--backbone", weights, "--facts", DEMO_FACTS], check=False)
    if code < 0:
        say("it was killed by a signal; this is why:")
        run([masa(python), "doctor"], check=False)
    return 1 if code < 0 else code


def test(python: Path, pytest_arguments: list[str]) -> int:
    """Every check runs, whatever the ones before it said; pytest comes last."""
    environment = {**os.environ, "MASA_REQUIRE_MODELS": os.environ.get("MASA_REQUIRE_MODELS", "1")}
    checks = {
        "ruff check": ["ruff", "check", "."],
        "ruff format": ["ruff", "format", "--check", "."],
        "mypy": ["mypy"],
        "pytest": ["pytest", *pytest_arguments],
    }
    failed = [
        name for name, words in checks.items() if run([python, "-m", *words], check=False, environment=environment)
    ]
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


def fetch_weights(python: Path) -> None:
    """`masa pull` is quick where the weights are already here and intact."""
    run([masa(python), "pull", REWRITER], environment=pip_environment())


def set_up(extras: tuple[str, ...]) -> Path:
    """Make `.venv` hold masa, editable, with these extras. Returns its Python."""
    python = make_venv()
    cmake_args = recommended_cmake_args()
    wanted = stamp_key(cmake_args)
    stamp = read_stamp()
    if stamp.get("key") == wanted and set(extras) <= set(stamp.get("extras", ())):
        return python
    if stamp.get("key") == wanted:
        extras = tuple(dict.fromkeys([*stamp.get("extras", ()), *extras]))
    # Options that the user gave may ask for more than the instruction sets that `fits` looks at.
    same_options = stamp.get("cmake_args") == cmake_args or not os.environ.get("CMAKE_ARGS")
    if not (same_options and fits(python)):
        install_llama(python, cmake_args)
    say(f"installing masa, editable, with {', '.join(extras)}")
    pip(python, "install", "-qq", "--constraint", CONSTRAINTS, "--editable", f"{ROOT}[{','.join(extras)}]")
    STAMP.write_text(json.dumps({"key": wanted, "extras": extras, "cmake_args": cmake_args}), "utf-8")
    return python


def add_where_possible(python: Path, extras: tuple[str, ...]) -> None:
    """Install each of these extras, or say that what needs it is skipped; tried once an environment."""
    stamp = read_stamp()
    tried = stamp.get("tried", [])
    for extra in extras:
        if extra in tried:
            continue
        say(f"installing the extra {extra}")
        words = ["-qq", "--constraint", CONSTRAINTS, "--editable", f"{ROOT}[{extra}]"]
        if run([python, "-m", "pip", "install", *words], check=False, environment=pip_environment()):
            say(f"the extra {extra} cannot be installed here; tests that need it are skipped")
        tried = [*tried, extra]
        STAMP.write_text(json.dumps({**stamp, "tried": tried}), "utf-8")


# --- Python and its environment ---------------------------------------------------------------------


def use_new_enough_python() -> None:
    """Go on in a newer Python where `python3` is an old one."""
    if sys.version_info >= NEEDED:
        return
    found = next((path for minor in (13, 12, 11) if (path := shutil.which(f"python3.{minor}"))), None)
    if found is None:
        raise SetupError(
            f"this is Python {platform.python_version()} and no newer one is on the path; install Python 3.11 or newer"
        )
    os.execv(found, [found, *sys.argv])


def make_venv() -> Path:
    python = VENV / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    if not python.exists():
        say(f"creating {VENV}")
        try:
            run([sys.executable, "-m", "venv", "--clear", VENV])
        except subprocess.CalledProcessError:
            raise SetupError(
                "Python cannot create a virtual environment; "
                "install its venv module (on Debian and Ubuntu: apt install python3-venv)"
            ) from None
    return python


def read_stamp() -> dict[str, Any]:
    try:
        stamp = json.loads(STAMP.read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return stamp if isinstance(stamp, dict) else {}


def stamp_key(cmake_args: str) -> str:
    """Changes when anything changes that the environment was made from."""
    files = (ROOT / "pyproject.toml", ROOT / "hatch_build.py", CONSTRAINTS)
    parts = [file.read_text("utf-8") for file in files]
    return digest(*parts, cmake_args, sys.version, str(ROOT))


# --- llama.cpp --------------------------------------------------------------------------------------


def recommended_cmake_args() -> str:
    from masa import cpu

    return cpu.cmake_args(cpu.detect(), os.environ.get("CMAKE_ARGS", ""), cpu.compiler_accepts)


def install_llama(python: Path, cmake_args: str) -> None:
    """Install a llama-cpp-python that suits this CPU: from MASA_WHEELS, or of our own making."""
    for wheel in ready_wheels():
        say(f"trying {wheel}")
        if replace_llama(python, wheel, check=False) == 0 and fits(python):
            return
        say("it does not suit this CPU")
    replace_llama(python, built_wheel(python, cmake_args))


def replace_llama(python: Path, wheel: Path, *, check: bool = True) -> int:
    """Install this wheel and what it depends on, whatever build of the same version is there."""
    run([python, "-m", "pip", "uninstall", "-qq", "--yes", LLAMA], environment=pip_environment())
    return run([python, "-m", "pip", "install", "-qq", wheel], check=check, environment=pip_environment())


def ready_wheels() -> list[Path]:
    """The wheels in MASA_WHEELS whose version is in our range, newest first."""
    from masa.extras import in_range

    folder = os.environ.get("MASA_WHEELS")
    found = sorted(Path(folder).glob("llama_cpp_python-*.whl"), reverse=True) if folder else []
    return [wheel.resolve() for wheel in found if in_range(wheel.name.split("-")[1], llama_range())]


def fits(python: Path) -> bool:
    """Whether the environment has a llama-cpp-python in our range that was compiled for just this CPU.

    llama.cpp is asked in a process of its own: a build for another CPU may kill it. AMX is never accepted.
    """
    code = (
        "import json, sys; sys.path.insert(0, sys.argv[1]); from masa import cpu, doctor, extras, probe\n"
        "found = probe.run_probe(None)\n"
        "check = doctor.check_build(found, cpu.detect()) if found.works else None\n"
        "ok = check is not None and check.status == 'ok' and extras.in_range(found.version, sys.argv[2])\n"
        "print(json.dumps(ok))"
    )
    try:
        return captured([python, "-c", code, ROOT / "runtime", llama_range()]).strip() == "true"
    except subprocess.CalledProcessError:
        return False


def built_wheel(python: Path, cmake_args: str) -> Path:
    """The wheel compiled with exactly these options, from the cache folder or from the compiler."""
    from masa.resources import cache_dir

    spec = LLAMA + llama_range()
    folder = cache_dir() / "wheels" / digest(spec, cmake_args, platform.machine(), *platform.libc_ver())[:16]
    found = sorted(folder.glob("*.whl"))
    if found:
        return found[-1]
    need_compiler()
    cores = os.cpu_count() or 1
    say(f"compiling llama.cpp for this CPU on {cores} cores, about {max(1, round(14 / cores))} minutes, once")
    say(f"CMAKE_ARGS={cmake_args}")
    folder.parent.mkdir(parents=True, exist_ok=True)
    environment = {
        **pip_environment(),
        "CMAKE_ARGS": cmake_args,
        "CMAKE_BUILD_PARALLEL_LEVEL": os.environ.get("CMAKE_BUILD_PARALLEL_LEVEL", str(cores)),
    }
    with tempfile.TemporaryDirectory(dir=folder.parent) as unfinished:
        options = ["--no-deps", "--no-cache-dir", "--no-binary", LLAMA, "--wheel-dir", unfinished]
        run([python, "-m", "pip", "wheel", "--progress-bar", "off", *options, spec], environment=environment)
        folder.mkdir(exist_ok=True)
        for wheel in Path(unfinished).glob("*.whl"):
            wheel.replace(folder / wheel.name)
    return sorted(folder.glob("*.whl"))[-1]


def llama_range() -> str:
    """The range of llama-cpp-python that pyproject.toml states, as in ">=0.3.36,<0.3.37"."""
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    needs = project["optional-dependencies"]["llama"]
    return next(str(need).removeprefix(LLAMA) for need in needs if need.startswith(LLAMA))


def need_compiler() -> None:
    if os.name == "nt" or os.environ.get("CXX"):
        return
    if not any(shutil.which(name) for name in ("c++", "g++", "clang++")):
        raise SetupError(
            "no C++ compiler is on the path to compile llama.cpp; install one "
            "(Debian and Ubuntu: apt install g++; Fedora: dnf install gcc-c++; macOS: xcode-select --install)"
        )


def masa(python: Path) -> str:
    """The command `masa` of the environment."""
    return shutil.which("masa", path=str(python.parent)) or str(python.parent / "masa")


# --- running things ---------------------------------------------------------------------------------


def pip(python: Path, *words: object) -> None:
    run([python, "-m", "pip", *words], environment=pip_environment())


def pip_environment() -> dict[str, str]:
    """The environment with MASA_WHEELS among the places that pip looks at."""
    environment = {**os.environ, "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    folder = os.environ.get("MASA_WHEELS")
    if folder:
        known = environment.get("PIP_FIND_LINKS", "")
        environment["PIP_FIND_LINKS"] = f"{known} {Path(folder).resolve()}".strip()
    return environment


def run(command: list[object], *, check: bool = True, environment: dict[str, str] | None = None) -> int:
    words = [str(word) for word in command]
    say(shlex.join(words))
    begin = time.monotonic()
    code = subprocess.run(words, cwd=ROOT, env=environment, check=check).returncode
    if time.monotonic() - begin > 10:
        say(f"{time.monotonic() - begin:.0f} s")
    return code


def captured(command: list[object]) -> str:
    return subprocess.run(
        [str(word) for word in command], cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True
    ).stdout


def digest(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def say(text: str) -> None:
    print(f"· {text}", flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
