"""What this CPU can do, and how llama.cpp must be compiled so that it runs on it.

llama.cpp's default build (`-march=native`) asks the compiler, which on a virtual machine may choose
AMX instructions that die with SIGILL. So the options are set one by one from what the operating
system reports: never AMX, and nothing that any core lacks.
"""

from __future__ import annotations

import os
import platform
import re
import shlex
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

_AVX512 = frozenset({"avx2", "avx512f", "avx512cd", "avx512vl", "avx512dq", "avx512bw"})

# CMake option -> (features of /proc/cpuinfo it needs, compiler option it turns on).
_X86: Mapping[str, tuple[frozenset[str], str]] = {
    "GGML_SSE42": (frozenset({"sse4_2"}), "-msse4.2"),
    "GGML_AVX": (frozenset({"avx"}), "-mavx"),
    "GGML_F16C": (frozenset({"avx", "f16c"}), "-mf16c"),
    "GGML_FMA": (frozenset({"avx", "fma"}), "-mfma"),
    "GGML_BMI2": (frozenset({"bmi2"}), "-mbmi2"),
    "GGML_AVX2": (frozenset({"avx", "avx2"}), "-mavx2"),
    "GGML_AVX_VNNI": (frozenset({"avx2", "avx_vnni"}), "-mavxvnni"),
    "GGML_AVX512": (_AVX512, "-mavx512f"),
    "GGML_AVX512_VBMI": (_AVX512 | {"avx512vbmi"}, "-mavx512vbmi"),
    "GGML_AVX512_VNNI": (_AVX512 | {"avx512_vnni"}, "-mavx512vnni"),
    "GGML_AVX512_BF16": (_AVX512 | {"avx512_bf16"}, "-mavx512bf16"),
}
_AMX = ("GGML_AMX_TILE", "GGML_AMX_INT8", "GGML_AMX_BF16")

# Best first. SVE is left out on purpose: every core that has it runs the NEON kernels as well.
_ARM: tuple[tuple[str, frozenset[str]], ...] = (
    ("armv8.2-a+dotprod+fp16+i8mm", frozenset({"asimddp", "asimdhp", "i8mm"})),
    ("armv8.2-a+dotprod+fp16", frozenset({"asimddp", "asimdhp"})),
    ("armv8.2-a+dotprod", frozenset({"asimddp"})),
    ("armv8-a", frozenset()),
)

# We use libllama alone; these parts would only make the build longer.
_LEFT_OUT = ("LLAVA_BUILD", *(f"LLAMA_BUILD_{part}" for part in ("TESTS", "EXAMPLES", "TOOLS", "SERVER")))

_FALSE = frozenset({"OFF", "0", "NO", "N", "FALSE", ""})  # as CMake reads it

# Name in llama.cpp's system info -> feature of /proc/cpuinfo.
_COMPILED: Mapping[str, str] = {
    "SSE3": "pni",
    "SSSE3": "ssse3",
    "AVX": "avx",
    "AVX2": "avx2",
    "F16C": "f16c",
    "FMA": "fma",
    "BMI2": "bmi2",
    "AVX_VNNI": "avx_vnni",
    "AVX512": "avx512f",
    "AVX512_VBMI": "avx512vbmi",
    "AVX512_VNNI": "avx512_vnni",
    "AVX512_BF16": "avx512_bf16",
    "AMX_INT8": "amx_int8",
    "NEON": "asimd",
    "FP16_VA": "asimdhp",
    "DOTPROD": "asimddp",
    "MATMUL_INT8": "i8mm",
    "SVE": "sve",
}


@dataclass(frozen=True, slots=True)
class Cpu:
    """A CPU as the operating system describes it.

    Attributes:
        system: `platform.system()`, such as "Linux".
        machine: "x86_64", "aarch64", or what the system says for anything else.
        model: a name for people; may be empty.
        features: names as in Linux' /proc/cpuinfo that every core has; None when they are unknown.
        bits: 32 or 64, of the Python process: a 64-bit core may run a 32-bit system.
    """

    system: str
    machine: str
    model: str = ""
    features: frozenset[str] | None = None
    bits: int = 64

    @property
    def is_x86(self) -> bool:
        return self.machine == "x86_64"

    @property
    def is_arm(self) -> bool:
        return self.machine == "aarch64"

    @property
    def summary(self) -> str:
        """The CPU in a few words, with the features that decide the speed of a model."""
        model = self.model or "CPU of unknown model"
        if self.features is None:
            return f"{model}, {self.machine}, features unknown"
        names = sorted(name for name, feature in _COMPILED.items() if feature in self.features)
        return f"{model}, {self.machine}, {' '.join(names) or 'no vector extensions'}"


def detect() -> Cpu:
    """The CPU this process runs on."""
    system, machine = platform.system(), platform.machine()
    if system == "Linux":
        try:
            text = Path("/proc/cpuinfo").read_text("utf-8", "replace")
        except OSError:
            text = ""
        return parse_cpuinfo(text, machine)
    features: frozenset[str] | None = None
    if sys.platform == "win32" and _machine(machine) == "x86_64":
        import ctypes

        kernel = ctypes.windll.kernel32
        features = _windows_features(lambda code: bool(kernel.IsProcessorFeaturePresent(code)))
    return Cpu(system, _machine(machine), platform.processor(), features, _bits())


def parse_cpuinfo(text: str, machine: str, *, bits: int | None = None) -> Cpu:
    """The CPU that this text of /proc/cpuinfo describes; a feature counts when every core has it."""
    cores = [set(names.split()) for names in re.findall(r"(?mi)^(?:flags|features)[ \t]*:(.*)$", text)]
    model = re.search(r"(?mi)^model name\s*:\s*(.+)", text)
    features = frozenset(set.intersection(*cores)) if cores else None
    return Cpu("Linux", _machine(machine), model[1].strip() if model else "", features, bits or _bits())


def cmake_flags(cpu: Cpu, accepts: Callable[[str], bool] = lambda option: True) -> dict[str, str]:
    """The CMake options of llama.cpp for this CPU.

    `accepts` tells whether the compiler knows an option such as "-mavxvnni"; an old compiler then
    gets a slower build instead of a failing one. Features that are unknown count as missing.
    """
    flags: dict[str, str] = {}
    if not (cpu.system == "Windows" and cpu.is_arm):  # MSVC on ARM refuses to build without it
        flags["GGML_NATIVE"] = "OFF"
    have = cpu.features or frozenset()
    if cpu.is_x86 and cpu.system != "Darwin":  # on Macs, llama-cpp-python's own build sets these
        for name, (needed, option) in _X86.items():
            flags[name] = "ON" if needed <= have and accepts(option) else "OFF"
        if flags["GGML_AVX512_VNNI"] == "ON":
            flags["GGML_AVX_VNNI"] = "OFF"  # the wider form of the same instructions wins
        flags.update(dict.fromkeys(_AMX, "OFF"))
    elif cpu.is_arm and cpu.system == "Linux" and cpu.bits == 64:
        choices = [arch for arch, needed in _ARM if needed <= have and accepts(f"-march={arch}")]
        flags["GGML_CPU_ARM_ARCH"] = choices[0] if choices else _ARM[-1][0]
    flags.update(dict.fromkeys(_LEFT_OUT, "OFF"))
    return flags


def cmake_args(cpu: Cpu, given: str = "", accepts: Callable[[str], bool] = lambda option: True) -> str:
    """`CMAKE_ARGS` for this CPU: what is `given` by the user comes first and wins, the rest is added.

    A feature that the user turned off takes those with it that need it: without AVX512 no AVX512_VNNI.
    """
    named = dict(re.findall(r"-D\s*([A-Za-z0-9_]+)(?::\w+)?=(\S*)", given))
    refused = {name.removeprefix("GGML_") for name, value in named.items() if value.upper() in _FALSE}
    if cpu.features is not None:
        cpu = replace(cpu, features=cpu.features - {_COMPILED.get(name, "") for name in refused})
    added = [f"-D{name}={value}" for name, value in cmake_flags(cpu, accepts).items() if name not in named]
    return " ".join([*([given.strip()] if given.strip() else []), *added])


def compiler_accepts(option: str) -> bool:
    """Whether the C compiler knows `option`; True where there is none to ask."""
    command = shlex.split(os.environ.get("CC", "")) or [shutil.which("cc") or shutil.which("gcc") or ""]
    if os.name == "nt" or not command[0]:
        return True
    try:
        run = subprocess.run(
            [*command, option, "-fsyntax-only", "-x", "c", os.devnull],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=60,
            check=False,
        )
    except (OSError, subprocess.SubprocessError):
        return True
    return run.returncode == 0


def compiled_features(system_info: str) -> frozenset[str]:
    """The features, named as in /proc/cpuinfo, that `llama_print_system_info()` says are compiled in."""
    enabled = set(re.findall(r"\b([A-Z][A-Z0-9_]*) = 1\b", system_info))
    return frozenset(feature for name, feature in _COMPILED.items() if name in enabled)


def display_name(feature: str) -> str:
    """A feature's name as llama.cpp writes it: "avx512f" is "AVX512"."""
    return next((name for name, known in _COMPILED.items() if known == feature), feature)


def usable_features(cpu: Cpu) -> frozenset[str]:
    """The features that a build with the recommended flags compiles in."""
    flags = cmake_flags(cpu)
    found: set[str] = set()
    for name, (needed, _) in _X86.items():
        if flags.get(name) == "ON":
            found |= needed
    arch = flags.get("GGML_CPU_ARM_ARCH")
    found |= next((needed for name, needed in _ARM if name == arch), frozenset())
    return frozenset(found) & frozenset(_COMPILED.values())


def _machine(name: str) -> str:
    name = name.lower()
    if name in ("x86_64", "amd64", "x64", "i386", "i486", "i586", "i686"):
        return "x86_64"
    return "aarch64" if name in ("aarch64", "arm64", "armv8l", "armv8b") else name


def _bits() -> int:
    return struct.calcsize("P") * 8


def _windows_features(present: Callable[[int], bool]) -> frozenset[str]:
    """Features by the codes of IsProcessorFeaturePresent; AVX-512 has only one code, so it is left out."""
    codes = {38: {"sse4_2"}, 39: {"avx"}, 40: {"avx2", "fma", "f16c", "bmi2"}}
    return frozenset(feature for code, names in codes.items() if present(code) for feature in names)


def usable_cores() -> int:
    """The cores that this process may run on."""
    if sys.platform == "linux":
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
