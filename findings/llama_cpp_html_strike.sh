#!/usr/bin/env bash
# llama.cpp (llama-cpp-python 0.3.36) takes a token spelled </s> for the end of a text, whatever its type in the file.
# Gemma 3's vocabulary has HTML tags as user-defined tokens, <s> and </s> of struck-out text among them; its texts end
# with <eos> and <end_of_turn>. So, with a GGUF whose vocabulary says the same:
#   - <s> is read from text as its token, </s> is not, although both have the same type;
#   - the token </s> ends generation, and is left out when tokens are turned into text.
# Compiles llama.cpp (minutes). Exits 0 while that holds, 1 once it has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
export CMAKE_ARGS="${CMAKE_ARGS:--DGGML_NATIVE=OFF -DMTMD_BUILD=OFF}"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check llama-cpp-python==0.3.36 gguf==0.19.0
FOLDER=$folder "$folder/venv/bin/python" - <<'PYTHON'
import ctypes
import os
import sys
from importlib.metadata import version

import gguf
import llama_cpp

print("llama-cpp-python", version("llama-cpp-python"))
printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
others = iter(range(0x100, 0x200))
tokens = [chr(byte if byte in printable else next(others)) for byte in range(256)] + ["ab"]
kinds = [gguf.TokenType.NORMAL] * 257
for text, kind in (("<eos>", 3), ("<end_of_turn>", 3), ("<s>", 4), ("</s>", 4), ("<b>", 4), ("</b>", 4)):
    tokens.append(text)
    kinds.append(gguf.TokenType(kind))
path = os.path.join(os.environ["FOLDER"], "vocabulary.gguf")
writer = gguf.GGUFWriter(path, "llama")
writer.add_tokenizer_model("gpt2")
writer.add_tokenizer_pre("qwen2")
writer.add_token_list(tokens)
writer.add_token_types(kinds)
writer.add_token_merges(["a b"])
writer.add_eos_token_id(tokens.index("<eos>"))
writer.write_header_to_file()
writer.write_kv_data_to_file()
writer.write_tensors_to_file()
writer.close()

silent = llama_cpp.llama_log_callback(lambda level, text, data: None)
llama_cpp.llama_log_set(silent, ctypes.c_void_p(0))
params = llama_cpp.llama_model_default_params()
params.vocab_only = True
vocabulary = llama_cpp.llama_model_get_vocab(llama_cpp.llama_model_load_from_file(path.encode(), params))
buffer = (llama_cpp.llama_token * 64)()


def read(text):
    count = llama_cpp.llama_tokenize(vocabulary, text.encode(), len(text), buffer, 64, False, False)
    return [tokens[token] for token in buffer[:count]]


def spelled(token):
    piece = ctypes.create_string_buffer(64)
    size = llama_cpp.llama_token_to_piece(vocabulary, tokens.index(token), piece, 64, 0, False)
    return piece.raw[:size].decode()


for tag in ("<b>", "</b>", "<s>", "</s>"):
    ends = llama_cpp.llama_vocab_is_eog(vocabulary, tokens.index(tag))
    print(f"{tag} (user-defined): read as {read(tag)}, spelled {spelled(tag)!r}, ends generation: {ends}")
same = (
    [read(tag) == [tag] for tag in ("<b>", "</b>", "<s>", "</s>")] == [True, True, True, False]
    and spelled("<s>") == "<s>"
    and spelled("</s>") == ""
    and llama_cpp.llama_vocab_is_eog(vocabulary, tokens.index("</s>"))
)
print("as described" if same else "changed")
sys.exit(0 if same else 1)
PYTHON
