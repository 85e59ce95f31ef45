#!/usr/bin/env bash
# llama-cpp-python 0.3.36 makes a grammar of a JSON schema (response_format, LlamaGrammar.from_json_schema) and leaves
# the bounds of a number out without a word, while lengths of texts and lists are kept: with minimum 1 and maximum 5
# it admits 40, -3 and 0. The same schema in llguidance 1.9.1 admits 1 to 5 alone. So a tool call whose schema bounds
# an argument is constrained under one of them, and under the other it looks constrained and is not.
# Compiles llama.cpp (minutes). Exits 0 while that holds, 1 once it has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
export CMAKE_ARGS="${CMAKE_ARGS:--DGGML_NATIVE=OFF -DMTMD_BUILD=OFF}"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check llama-cpp-python==0.3.36 gguf==0.19.0 \
    llguidance==1.9.1 tokenizers==0.22.2
FOLDER=$folder "$folder/venv/bin/python" - <<'PYTHON'
import ctypes
import json
import os
import sys
from importlib.metadata import version

import gguf
import llama_cpp
from llama_cpp.llama_grammar import json_schema_to_gbnf
from llguidance import LLMatcher, LLTokenizer
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

print("llama-cpp-python", version("llama-cpp-python"), "· llguidance", version("llguidance"))
printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
others = iter(range(0x100, 0x200))
letters = [chr(byte if byte in printable else next(others)) for byte in range(256)]

path = os.path.join(os.environ["FOLDER"], "vocabulary.gguf")
writer = gguf.GGUFWriter(path, "llama")
writer.add_tokenizer_model("gpt2")
writer.add_tokenizer_pre("qwen2")
writer.add_token_list([*letters, "ab", "<|end|>"])
writer.add_token_types([gguf.TokenType.NORMAL] * 257 + [gguf.TokenType.CONTROL])
writer.add_token_merges(["a b"])
writer.add_eos_token_id(257)
writer.write_header_to_file()
writer.write_kv_data_to_file()
writer.write_tensors_to_file()
writer.close()
silent = llama_cpp.llama_log_callback(lambda level, text, data: None)
llama_cpp.llama_log_set(silent, ctypes.c_void_p(0))
params = llama_cpp.llama_model_default_params()
params.vocab_only = True
vocabulary = llama_cpp.llama_model_get_vocab(llama_cpp.llama_model_load_from_file(path.encode(), params))

tokenizer = Tokenizer(models.BPE({letter: number for number, letter in enumerate(letters)}, []))
tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
tokenizer.decoder = decoders.ByteLevel()
tokenizer.add_special_tokens([AddedToken("<|end|>", special=True, normalized=False)])
words = LLTokenizer(tokenizer.to_str(), eos_token=tokenizer.token_to_id("<|end|>"))


def llama_cpp_admits(schema, text):
    grammar = json_schema_to_gbnf(json.dumps(schema)).encode()
    sampler = llama_cpp.llama_sampler_init_grammar(vocabulary, grammar, b"root")
    for token in [*text.encode(), 257]:
        data = (llama_cpp.llama_token_data * 258)(*((number, 0.0, 0.0) for number in range(258)))
        candidates = llama_cpp.llama_token_data_array(data, 258, -1, False)
        llama_cpp.llama_sampler_apply(sampler, ctypes.byref(candidates))
        if not any(data[n].id == token and data[n].logit == 0.0 for n in range(candidates.size)):
            return False
        if token != 257:
            llama_cpp.llama_sampler_accept(sampler, token)
    return True


def llguidance_admits(schema, text):
    matcher = LLMatcher(words, LLMatcher.grammar_from_json_schema(json.dumps(schema)), log_level=0)
    return all(matcher.consume_token(token) for token in text.encode()) and matcher.is_accepting()


cases = [
    ({"type": "integer", "minimum": 1, "maximum": 5}, ("3", "40", "-3", "0")),
    ({"type": "number", "exclusiveMinimum": 0}, ("0.5", "-0.5")),
    ({"type": "string", "minLength": 2, "maxLength": 3}, ('"abc"', '"abcd"')),
    ({"type": "array", "items": {"type": "integer"}, "maxItems": 2}, ("[1,2]", "[1,2,3]")),
]
found = []
for schema, texts in cases:
    print(json.dumps(schema))
    for text in texts:
        found.append((llama_cpp_admits(schema, text), llguidance_admits(schema, text)))
        print(f"  {text:<10} llama-cpp-python admits: {found[-1][0]}, llguidance: {found[-1][1]}")
both, one, none = (True, True), (True, False), (False, False)
same = found == [both, one, one, one, both, one, both, none, both, none]
print("as described" if same else "changed")
sys.exit(0 if same else 1)
PYTHON
