"""The types a GGUF can be quantized to, by llama.cpp's names."""

from __future__ import annotations

from collections.abc import Mapping

from masa.fields import did_you_mean
from masa_export.errors import ExportError

FILE_TYPES: Mapping[str, int] = {
    "F32": 0, "F16": 1, "BF16": 32,
    "Q8_0": 7, "Q6_K": 18, "Q5_K_M": 17, "Q5_K_S": 16, "Q5_1": 9, "Q5_0": 8,
    "Q4_K_M": 15, "Q4_K_S": 14, "Q4_1": 3, "Q4_0": 2, "IQ4_NL": 25, "IQ4_XS": 30, "MXFP4_MOE": 38,
    "Q3_K_L": 13, "Q3_K_M": 12, "Q3_K_S": 11, "IQ3_M": 27, "IQ3_S": 26, "IQ3_XS": 22, "IQ3_XXS": 23,
    "Q2_K": 10, "Q2_K_S": 21, "Q2_0": 41, "IQ2_M": 29, "IQ2_S": 28, "IQ2_XS": 20, "IQ2_XXS": 19, "TQ2_0": 37,
    "IQ1_M": 31, "IQ1_S": 24, "TQ1_0": 36, "Q1_0": 40,
}  # fmt: skip
"""Name -> number in llama.h, enum llama_ftype. NVFP4 is left out: llama.cpp reads it but cannot quantize to it."""
UNQUANTIZED = ("F32", "F16", "BF16")
NEED_IMPORTANCE = frozenset({"IQ2_XXS", "IQ2_XS", "IQ2_S", "Q2_K_S", "IQ1_S", "IQ1_M"})
"""Too coarse to be of use without an importance matrix; llama.cpp's own tool refuses them, too."""
_ALIASES = {"Q3_K": "Q3_K_M", "Q4_K": "Q4_K_M", "Q5_K": "Q5_K_M"}


def parse_quantizations(text: str, *, importance: bool) -> tuple[str, ...]:
    """The names in a list such as "Q8_0,q4_k_m", each once and in llama.cpp's spelling.

    `importance` tells whether there is an importance matrix.

    Raises:
        ExportError: for no name, an unknown one, and one that needs an importance matrix where there is none.
    """
    names = [name.strip().upper().replace("-", "_") for name in text.split(",") if name.strip()]
    found = tuple(dict.fromkeys(_ALIASES.get(name, name) for name in names))
    if not found:
        raise ExportError(f"--quant {text!r}: names no type; give some of {', '.join(FILE_TYPES)}")
    for name in found:
        if name not in FILE_TYPES:
            hint = did_you_mean(name, FILE_TYPES) or f"; known: {', '.join(FILE_TYPES)}"
            raise ExportError(f"--quant {name}: llama.cpp quantizes to no type of this name{hint}")
        if name in NEED_IMPORTANCE and not importance:
            raise ExportError(
                f"--quant {name}: is of no use without an importance matrix; give one with --imatrix, or take Q2_K or "
                "more"
            )
    return found
