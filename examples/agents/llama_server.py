#!/usr/bin/env python3
"""An agent on llama.cpp's server (or LM Studio, vLLM: the chat completions of OpenAI's API), with adapted skills.

llama-server -m model.gguf --port 8080
python examples/agents/llama_server.py http://127.0.0.1:8080 --card examples/card.yaml "What is running out?"
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
    parser.add_argument("server")
    parser.add_argument("question")
    parser.add_argument("--card", help="a card of yours; its values win over what the server tells")
    parser.add_argument("--tokens", type=int, default=128)
    args = parser.parse_args()

    card = resolve_backbone(args.server, user=load_card(args.card) if args.card else None)
    with Rewriter.load("smollm2-135m") as rewriter:
        bank = rewriter.rewrite(load_bank(SKILLS), card).bank
    skills = render(select(bank, args.question))
    messages = [{"role": "system", "content": skills}, {"role": "user", "content": args.question}]
    body = json.dumps({"messages": messages, "max_tokens": args.tokens, "temperature": 0}).encode()
    request = urllib.request.Request(
        f"{args.server.rstrip('/')}/v1/chat/completions", body, {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=300) as answer:
        print(json.load(answer)["choices"][0]["message"]["content"])


if __name__ == "__main__":
    main()
