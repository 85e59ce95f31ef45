#!/usr/bin/env python3
"""An agent on transformers, with skills adapted to the model that it has loaded.

python examples/agents/with_transformers.py Qwen/Qwen3-0.6B --card my-card.yaml "What is running out?"
python examples/agents/with_transformers.py FOLDER --gguf model.gguf --card my-card.yaml "What is running out?"
"""

from __future__ import annotations

import argparse
from pathlib import Path

from transformers import AutoModelForCausalLM, AutoTokenizer

from masa import Rewriter, load_bank, resolve_backbone, select
from masa.retrieval import render

SKILLS = Path(__file__).resolve().parents[1] / "skills"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", help="a name on the Hub or a folder")
    parser.add_argument("question")
    parser.add_argument("--gguf", help="a GGUF file in that folder")
    parser.add_argument("--card", required=True, help="a card file, or the name of a shipped card")
    parser.add_argument("--tokens", type=int, default=128)
    args = parser.parse_args()

    with Rewriter.load("smollm2-135m") as rewriter:
        bank = rewriter.rewrite(load_bank(SKILLS), resolve_backbone(args.card)).bank
    messages = [
        {"role": "system", "content": render(select(bank, args.question))},
        {"role": "user", "content": args.question},
    ]
    more = {"gguf_file": args.gguf} if args.gguf else {}
    tokenizer = AutoTokenizer.from_pretrained(args.model, **more)
    model = AutoModelForCausalLM.from_pretrained(args.model, dtype="bfloat16", **more)
    prompt = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    written = model.generate(**prompt, max_new_tokens=args.tokens, do_sample=False)
    print(tokenizer.decode(written[0][prompt["input_ids"].shape[1] :], skip_special_tokens=True))


if __name__ == "__main__":
    main()
