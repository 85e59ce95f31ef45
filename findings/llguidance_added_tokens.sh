#!/usr/bin/env bash
# llguidance 1.9.1, given a tokenizers JSON, takes every added token that is spelled <…> for a control token, although
# the JSON says "special": false, as it does for <think> and <tool_call> of Qwen3 and for <b> and <code> of Gemma:
#   - a regular expression such as /[^\n]+/ refuses the token, so that a model cannot write its own tags;
#   - a grammar that spells the token has it forced (compute_ff_tokens) and as the only one in the mask, and then
#     refuses it (consume_token): there is no way on.
# Exits 0 while that holds, 1 once it has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check llguidance==1.9.1 tokenizers==0.22.2 numpy==2.3.5
"$folder/venv/bin/python" - <<'PYTHON'
import sys
from importlib.metadata import version

import numpy as np
from llguidance import LLMatcher, LLTokenizer
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

print("llguidance", version("llguidance"), "· tokenizers", version("tokenizers"))
alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
tokenizer = Tokenizer(models.BPE({letter: number for number, letter in enumerate(alphabet)}, []))
tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
tokenizer.decoder = decoders.ByteLevel()
tokenizer.add_special_tokens([AddedToken("<|end|>", special=True, normalized=False)])
tokenizer.add_tokens([AddedToken(text, special=False, normalized=False) for text in ("<think>", "[think]")])
vocabulary = LLTokenizer(tokenizer.to_str(), eos_token=tokenizer.token_to_id("<|end|>"))


def matcher(grammar):
    return LLMatcher(vocabulary, LLMatcher.grammar_from_lark(grammar), log_level=0)


found = {}
for text in ("<think>", "[think]"):
    token = tokenizer.token_to_id(text)
    free = matcher(r"start: /[^\n]+/").validate_tokens([token]) == 1
    literal = matcher(f'start: "{text}"')
    forced = literal.compute_ff_tokens()
    mask = np.unpackbits(np.frombuffer(literal.compute_bitmask(), np.uint8), bitorder="little")
    admitted = [tokenizer.id_to_token(int(number)) for number in np.flatnonzero(mask)]
    taken = literal.consume_token(token)
    print(f"{text} (special: false): /[^\\n]+/ takes it: {free}")
    print(f'  "{text}" forces {[tokenizer.id_to_token(n) for n in forced]}, its mask has {admitted}, it takes it: {taken}')
    if not taken:
        print("  error:", literal.get_error().splitlines()[0])
    found[text] = (free, admitted, taken)
same = found == {"<think>": (False, ["<think>"], False), "[think]": (True, ["[think]"], True)}
print("as described" if same else "changed")
sys.exit(0 if same else 1)
PYTHON
