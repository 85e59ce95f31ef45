#!/usr/bin/env python3
"""An agent on Ollama's own API, with adapted skills.

ollama pull qwen3:4b
python examples/agents/ollama.py qwen3:4b --card my-card.yaml "What is running out?"
"""

from __future__ import annotations

import argparse
import json
import urllib.request
from pathlib import Path

from masa import Rewriter, load_bank, load_card, resolve_backbone, select
from masa.retrieval import render

SKILLS = Path(__file__).resolve().parents[1] / "skills"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("question")
    parser.add_argument("--server", default="http://127.0.0.1:11434")
    parser.add_argument("--card", help="a card of yours; its values win over what the server tells")
    args = parser.parse_args()

    card = resolve_backbone(f"{args.server}#{args.model}", user=load_card(args.card) if args.card else None)
    with Rewriter.load("smollm2-135m") as rewriter:
        bank = rewriter.rewrite(load_bank(SKILLS), card).bank
    messages = [
        {"role": "system", "content": render(select(bank, args.question))},
        {"role": "user", "content": args.question},
    ]
    body = json.dumps({"model": args.model, "messages": messages, "stream": False, "think": False}).encode()
    request = urllib.request.Request(f"{args.server}/api/chat", body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=300) as answer:
        print(json.load(answer)["message"]["content"])


if __name__ == "__main__":
    main()
