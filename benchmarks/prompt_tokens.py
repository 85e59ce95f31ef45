#!/usr/bin/env python3
"""Tokens that a group costs in the text language, against the same group as JSON.

python benchmarks/prompt_tokens.py [BANK.json ...]
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from masa import load_bank
from masa.artifact import load_artifact
from masa.backends.llama import LlamaBackend
from masa.languages import numbered, render_blocks
from masa.prompt import Segment

ROOT = Path(__file__).resolve().parent.parent


def main(paths: list[str]) -> None:
    banks = [Path(path) for path in paths] or [ROOT / "examples" / "banks" / "household.json"]
    backend = LlamaBackend.load(load_artifact("smollm2-135m").weights_path)
    try:
        for path in banks:
            lines = compact = pretty = 0
            for group in load_bank(path).groups():
                items = [
                    {"title": skill.title, "principle": skill.principle, "when_to_apply": skill.when_to_apply}
                    for skill in group.skills
                ]
                lines += len(backend.tokenize([Segment(render_blocks(numbered(group)))]))
                compact += len(backend.tokenize([Segment(json.dumps(items, ensure_ascii=False))]))
                pretty += len(backend.tokenize([Segment(json.dumps(items, ensure_ascii=False, indent=2))]))
            print(
                f"{path.name}: {lines} tokens as lines, {compact} as JSON (ratio {lines / compact:.2f}), "
                f"{pretty} as indented JSON (ratio {lines / pretty:.2f})"
            )
    finally:
        backend.close()


if __name__ == "__main__":
    main(sys.argv[1:])
