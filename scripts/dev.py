#!/usr/bin/env python3
"""Sets up a checkout of masa and runs its main job or its tests. Needs only Python 3.11 or newer.

    python3 scripts/dev.py demo           set up, fetch the weights, rewrite a skill bank of ours
    python3 scripts/dev.py test           set up, then ruff, mypy and every test; at the end, what `newest` says
    python3 scripts/dev.py test -- …      the same in the main environment alone; pytest gets the rest
    python3 scripts/dev.py setup [NAME]   set up an environment: main (the default) or newest
    python3 scripts/dev.py newest         what is newer than the lock, and how the fast tests do with it; never fails
    python3 scripts/dev.py lock           lock the newest versions that pyproject.toml allows

An environment gets the versions in its file in scripts/locks/, direct and transitive, on every platform and Python.

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
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
CONSTRAINTS = ROOT / "scripts" / "constraints.txt"
LOCKS = ROOT / "scripts" / "locks"
REWRITER = "smollm2-135m"
DEMO_BANK = ROOT / "examples" / "banks" / "household.json"
DEMO_CARD = ROOT / "examples" / "card.yaml"
DEMO_FACTS = ROOT / "examples" / "facts" / "household.yaml"
LLAMA = "llama-cpp-python"
NEEDED = (3, 11)
NEWEST_MINUTES = 15


@dataclass(frozen=True)
class Environment:
    """A virtual environment of the checkout.

    Attributes:
        extras: what is installed.
        optional: extras that tests use where they can be had: the engine of ALFWorld compiles, Ray has no wheel for
            every Python.
        versions: the file of versions that pip is held to.
    """

    name: str
    folder: Path
    extras: tuple[str, ...]
    optional: tuple[str, ...]
    versions: Path

    @property
    def python(self) -> Path:
        return self.folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")

    @property
    def stamp(self) -> Path:
        """What was done in it."""
        return self.folder / "masa-setup.json"


MAIN = Environment(
    "main",
    ROOT / ".venv",
    ("llama", "onnx", "mcp", "check", "training", "export", "dev"),
    ("alfworld", "ray"),
    LOCKS / "main.txt",
)
NEWEST = Environment("newest", ROOT / ".venv-newest", MAIN.extras, (), CONSTRAINTS)
ENVIRONMENTS = {environment.name: environment for environment in (MAIN, NEWEST)}


class SetupError(Exception):
    """What a person must do before this script can go on, in one sentence."""


def main(arguments: list[str]) -> int:
    command = arguments[0] if arguments else "help"
    rest = [word for word in arguments[1:] if word != "--"]
    known = {"demo": (), "test": None, "setup": tuple(ENVIRONMENTS), "newest": (), "lock": ()}
    if command not in known or (command != "test" and (len(rest) > 1 or set(rest) - set(known[command] or ()))):
        print(__doc__)
        return 0 if command in ("help", "-h", "--help") else 2
    try:
        use_new_enough_python()
        sys.path.insert(0, str(ROOT / "runtime"))  # masa's own modules need the standard library alone
        if command == "setup":
            set_up(ENVIRONMENTS[rest[0] if rest else MAIN.name])
            return 0
        return {"demo": demo, "test": lambda: test(rest), "newest": newest, "lock": lock}[command]()
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


def demo() -> int:
    """Rewrite our bank for a model that skips steps."""
    python = set_up(MAIN, ("llama", "onnx"))
    fetch_weights(python)
    code = run([masa(python), "rewrite", DEMO_BANK, "--backbone", DEMO_CARD, "--facts", DEMO_FACTS], check=False)
    if code < 0:
        say("it was killed by a signal; this is why:")
        run([masa(python), "doctor"], check=False)
    return 1 if code < 0 else code


def test(pytest_arguments: Sequence[str]) -> int:
    """Every check runs, whatever the ones before it said. With arguments for pytest, the main environment alone."""
    python = set_up(MAIN)
    fetch_weights(python)
    checks: dict[str, list[object]] = {
        "ruff check": [python, "-m", "ruff", "check", "."],
        "ruff format": [python, "-m", "ruff", "format", "--check", "."],
        "mypy": [python, "-m", "mypy"],
        "pytest": [python, "-m", "pytest", *(pytest_arguments or in_parallel())],
    }
    environment = {**os.environ, "MASA_REQUIRE_MODELS": os.environ.get("MASA_REQUIRE_MODELS", "1")}
    failed = [name for name, words in checks.items() if run(words, check=False, environment=environment)]
    if not pytest_arguments:
        newest()
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


def newest() -> int:
    """Say what a user gets who installs today, and how the fast tests do with it; a failure there is news, no error."""
    try:
        locked = set_up(MAIN)
        found = newer(locked)
        if not found:
            say("nothing is newer than the lock")
            return 0
        python = set_up(NEWEST)
        before, after = installed(locked), installed(python)
        drifted = [name for name in sorted(after) if before.get(name) != after[name]]
        code = run(
            [python, "-m", "pytest", "-q", "-m", "not model", *in_parallel()], check=False, minutes=NEWEST_MINUTES
        )
    except (SetupError, subprocess.CalledProcessError) as error:
        say(f"the newest versions were not tried: {error}")
        return 0
    for name in drifted:
        say(f"drifted: {name} {before.get(name, 'none')} -> {after[name]}")
    say(f"the fast tests {'pass' if code == 0 else 'FAIL'} with them; `python3 scripts/dev.py lock` takes them over")
    return 0


def lock() -> int:
    """Write the lock anew."""
    with tempfile.TemporaryDirectory() as folder:
        run([sys.executable, "-m", "venv", folder])
        place = Environment("uv", Path(folder), (), (), CONSTRAINTS)
        pip(place.python, "install", "-qq", "uv")
        words: list[object] = [place.python, "-m", "uv", "pip", "compile", "pyproject.toml", "--quiet", "--upgrade"]
        words += ["--universal", "--python-version", ".".join(map(str, NEEDED)), "--no-annotate"]
        words += ["--custom-compile-command", "python3 scripts/dev.py lock", "--constraint", CONSTRAINTS]
        words += ["--group", "build"]
        words += [word for extra in (*MAIN.extras, *MAIN.optional) for word in ("--extra", extra)]
        MAIN.versions.parent.mkdir(exist_ok=True)
        run([*words, "--output-file", MAIN.versions])
    return 0


def in_parallel() -> list[str]:
    """Options of pytest for a test process on each core; a module's tests stay together, for the sake of fixtures."""
    return ["-n", str(os.cpu_count() or 1), "--dist", "loadfile"]


def fetch_weights(python: Path) -> None:
    """`masa pull` is quick where the weights are already here and intact."""
    run([masa(python), "pull", REWRITER], environment=pip_environment())


# --- environments -----------------------------------------------------------------------------------


def set_up(environment: Environment, extras: tuple[str, ...] | None = None) -> Path:
    """Make the environment hold masa, editable, with its extras or with these alone. Returns its Python."""
    fresh = not environment.python.exists()
    python = make_venv(environment)
    cmake_args = recommended_cmake_args()
    wanted = stamp_key(environment, cmake_args)
    stamp = read_stamp(environment)
    if stamp.get("key") != wanted or environment == NEWEST:  # which is never up to date
        stamp = {"cmake_args": stamp.get("cmake_args"), "extras": [], "tried": []}
    missing = [extra for extra in extras or environment.extras if extra not in stamp["extras"]]
    if missing:
        # Options that the user gave may ask for more than the instruction sets that `fits` looks at.
        same_options = stamp["cmake_args"] == cmake_args or not os.environ.get("CMAKE_ARGS")
        if not (same_options and fits(python)):
            install_llama(environment, cmake_args)
        both = [*stamp["extras"], *missing]
        say(f"installing masa, editable, with {', '.join(both)}")
        install_masa(environment, both)
        if not fresh and run([python, "-m", "pip", "check"], check=False):
            say("what was installed earlier does not go together with this; making the environment anew")
            shutil.rmtree(environment.folder)
            return set_up(environment, extras)
        stamp = {**stamp, "key": wanted, "extras": both, "cmake_args": cmake_args}
        environment.stamp.write_text(json.dumps(stamp), "utf-8")
    for extra in environment.optional if extras is None else ():
        if extra not in stamp["tried"]:
            say(f"installing the extra {extra}")
            if install_masa(environment, [extra], check=False):
                say(f"the extra {extra} cannot be installed here; tests that need it are skipped")
            stamp = {**stamp, "tried": [*stamp["tried"], extra]}
            environment.stamp.write_text(json.dumps(stamp), "utf-8")
    return python


def install_masa(environment: Environment, extras: Sequence[str], *, check: bool = True) -> int:
    """Install masa, editable, with these extras in the environment's versions, or the newest where none is given."""
    words: list[object] = [environment.python, "-m", "pip", "install", "-qq", "--editable"]
    words += [f"{ROOT}[{','.join(extras)}]"]
    if environment == NEWEST:
        words += ["--upgrade", "--upgrade-strategy", "eager"]
    return run(words, check=check, environment=pip_environment(environment))


def newer(python: Path) -> list[str]:
    """The packages that an upgrade of everything would install; nothing is."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        words = ["install", "-qq", "--dry-run", "--upgrade", "--upgrade-strategy", "eager", "--report", report]
        extras = ",".join(NEWEST.extras)
        run([python, "-m", "pip", *words, f"{ROOT}[{extras}]"], environment=pip_environment(NEWEST))
        names = [entry["metadata"]["name"] for entry in json.loads(report.read_text("utf-8"))["install"]]
    return [name for name in names if name != "masa-skills"]


def installed(python: Path) -> dict[str, str]:
    """Name and version of every package of an environment."""
    words = [python, "-m", "pip", "list", "--format", "json", "--disable-pip-version-check"]
    return {entry["name"]: entry["version"] for entry in json.loads(captured(words))}


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


def make_venv(environment: Environment) -> Path:
    if not environment.python.exists():
        say(f"creating {environment.folder}")
        try:
            run([sys.executable, "-m", "venv", "--clear", environment.folder])
        except subprocess.CalledProcessError:
            raise SetupError(
                "Python cannot create a virtual environment; "
                "install its venv module (on Debian and Ubuntu: apt install python3-venv)"
            ) from None
    return environment.python


def read_stamp(environment: Environment) -> dict[str, Any]:
    try:
        stamp = json.loads(environment.stamp.read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return stamp if isinstance(stamp, dict) else {}


def stamp_key(environment: Environment, cmake_args: str) -> str:
    """Changes when anything changes that the environment was made from."""
    files = (ROOT / "pyproject.toml", ROOT / "hatch_build.py", environment.versions)
    parts = [file.read_text("utf-8") for file in files]
    return digest(*parts, cmake_args, sys.version, str(ROOT))


# --- llama.cpp --------------------------------------------------------------------------------------


def recommended_cmake_args() -> str:
    from masa import cpu

    return cpu.cmake_args(cpu.detect(), os.environ.get("CMAKE_ARGS", ""), cpu.compiler_accepts)


def install_llama(environment: Environment, cmake_args: str) -> None:
    """Install a llama-cpp-python that suits this CPU: from MASA_WHEELS, or of our own making."""
    for wheel in ready_wheels():
        say(f"trying {wheel}")
        if replace_llama(environment, wheel, check=False) == 0 and fits(environment.python):
            return
        say("it does not suit this CPU")
    replace_llama(environment, built_wheel(environment, cmake_args))


def replace_llama(environment: Environment, wheel: Path, *, check: bool = True) -> int:
    """Install this wheel and what it depends on, whatever build of the same version is there."""
    words: list[object] = [environment.python, "-m", "pip"]
    run([*words, "uninstall", "-qq", "--yes", LLAMA], environment=pip_environment())
    return run([*words, "install", "-qq", wheel], check=check, environment=pip_environment(environment))


def ready_wheels() -> list[Path]:
    """The wheels in MASA_WHEELS whose version is in our range, newest first."""
    from masa.extras import in_range

    folder = os.environ.get("MASA_WHEELS")
    found = sorted(Path(folder).glob("llama_cpp_python-*.whl"), reverse=True) if folder else []
    return [wheel.resolve() for wheel in found if in_range(wheel.name.split("-")[1], llama_range())]


_FITS = """
import json, sys
sys.path.insert(0, sys.argv[1])
from masa import cpu, doctor, extras, llama_trial
found = llama_trial.run_trial(None)
check = doctor.check_build(found, cpu.detect()) if found.works else None
print(json.dumps(check is not None and check.status == "ok" and extras.in_range(found.version, sys.argv[2])))
"""


def fits(python: Path) -> bool:
    """Whether the environment has a llama-cpp-python in our range that was compiled for just this CPU.

    llama.cpp is asked in a process of its own: a build for another CPU may kill it. AMX is never accepted.
    """
    try:
        return captured([python, "-c", _FITS, ROOT / "runtime", llama_range()]).strip() == "true"
    except subprocess.CalledProcessError:
        return False


def built_wheel(environment: Environment, cmake_args: str) -> Path:
    """The wheel compiled with exactly these options, from the cache folder or from the compiler."""
    from masa.folders import cache_dir

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
    variables = {
        **pip_environment(environment),
        "CMAKE_ARGS": cmake_args,
        "CMAKE_BUILD_PARALLEL_LEVEL": os.environ.get("CMAKE_BUILD_PARALLEL_LEVEL", str(cores)),
    }
    with tempfile.TemporaryDirectory(dir=folder.parent) as unfinished:
        options = ["--no-deps", "--no-cache-dir", "--no-binary", LLAMA, "--wheel-dir", unfinished]
        run([environment.python, "-m", "pip", "wheel", "--progress-bar", "off", *options, spec], environment=variables)
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


def pip_environment(environment: Environment | None = None) -> dict[str, str]:
    """Variables that hold pip to the versions of an environment, and have it look into MASA_WHEELS."""
    variables = {**os.environ, "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    if environment is not None:
        # Variables instead of an option: the tools that a source distribution is built with are held to them, too.
        for name in ("PIP_CONSTRAINT", "PIP_BUILD_CONSTRAINT"):
            variables[name] = environment.versions.relative_to(ROOT).as_posix()  # blanks would separate two files
    folder = os.environ.get("MASA_WHEELS")
    if folder:
        known = variables.get("PIP_FIND_LINKS", "")
        variables["PIP_FIND_LINKS"] = f"{known} {Path(folder).resolve()}".strip()
    return variables


def run(
    command: Sequence[object], *, check: bool = True, environment: Mapping[str, str] | None = None, minutes: int = 0
) -> int:
    """The exit code of a command, which is ended after so many minutes, if any are given."""
    words = [str(word) for word in command]
    say(shlex.join(words))
    begin = time.monotonic()
    try:
        code = subprocess.run(words, cwd=ROOT, env=environment, check=check, timeout=minutes * 60 or None).returncode
    except subprocess.TimeoutExpired:
        say(f"ended after {minutes} minutes")
        code = 124
    if time.monotonic() - begin > 10:
        say(f"{time.monotonic() - begin:.0f} s")
    return code


def captured(command: Sequence[object]) -> str:
    return subprocess.run(
        [str(word) for word in command], cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True
    ).stdout


def digest(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def say(text: str) -> None:
    print(f"· {text}", flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
