#!/usr/bin/env python3
"""Puts the checkpoint of a trained instrument into models/instruments, as small as it can be.

    python scripts/ship_instrument.py runs/terse            # models/instruments/terse

The adapter is stored in 16 bits, of the records only what loading needs: no place on this machine, no losses.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

INSTRUMENTS = Path(__file__).resolve().parent.parent / "models" / "instruments"
PEFT = ("peft_type", "task_type", "r", "lora_alpha", "lora_dropout", "bias", "target_modules", "inference_mode")


def main(run: Path) -> Path:
    import numpy as np
    from safetensors.numpy import load_file, save_file

    source, target = run / "checkpoint", INSTRUMENTS / run.resolve().name
    record = json.loads((source / "masa.json").read_text("utf-8"))
    adapter = json.loads((source / "adapter_config.json").read_text("utf-8"))
    tensors = {
        name: values.astype(np.float16) for name, values in load_file(source / "adapter_model.safetensors").items()
    }
    if not all(np.isfinite(values).all() for values in tensors.values()):
        raise SystemExit(f"{source}: holds numbers that 16 bits cannot; train it again")
    record["base"]["path"] = record["base"]["spec"]
    record["training"] = {key: value for key, value in record["training"].items() if key != "start"}
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    save_file(tensors, target / "adapter_model.safetensors")
    (target / "adapter_model.safetensors").chmod(0o644)  # the library keeps it to its owner
    for name, content in (
        ("masa.json", record),
        ("adapter_config.json", {key: adapter[key] for key in PEFT}),
    ):
        (target / name).write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", "utf-8")
    return target


if __name__ == "__main__":
    if len(sys.argv) != 2 or sys.argv[1] in ("-h", "--help"):
        sys.exit(__doc__)
    print(main(Path(sys.argv[1])))
