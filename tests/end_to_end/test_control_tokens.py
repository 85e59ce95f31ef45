"""Every backend's tokenizer takes the same tokens for control, and spells all others, into ids and back."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip("llama_cpp")
pytest.importorskip("tokenizers")
pytest.importorskip("transformers")

from tests.tiny_gguf import write_vocabulary

from masa.backends.llama import LlamaBackend
from masa.backends.onnx_tokenizer import TOKENIZER_NAME, JsonTokenizer
from masa.backends.tokenizing import Tokenizer
from masa.constraint import Constraint
from masa.errors import MasaError
from masa.forms.tokenizer import write_tokenizer
from masa.prompt import Segment
from masa.weights import find_weights
from masa_export.onnx_export import prove
from masa_training.bases import FolderTokenizer

NORMAL, CONTROL, USER_DEFINED = 1, 3, 4  # gguf's TokenType
ENDS = {"<|endoftext|>": CONTROL, "<|im_start|>": CONTROL, "<|im_end|>": CONTROL}
# The added tokens with their types as the files of these models have them; `</s>` is no control token in either.
VOCABULARIES = {
    "Qwen2.5-Coder": {
        "</s>": NORMAL,
        **ENDS,
        "<|vision_start|>": CONTROL,
        "<tool_call>": USER_DEFINED,
        "</tool_call>": USER_DEFINED,
        "<|fim_prefix|>": CONTROL,
        "<|file_sep|>": CONTROL,
    },
    "Qwen3": {
        **ENDS,
        **dict.fromkeys(
            ("<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>", "<think>", "</think>"), USER_DEFINED
        ),
    },
    "Gemma-3": {
        **dict.fromkeys(("<pad>", "<eos>", "<bos>", "<mask>", "<start_of_turn>", "<end_of_turn>"), CONTROL),
        **dict.fromkeys(("[multimodal]", "<unused0>", "<table>", "<b>", "</b>", "<code>", "</code>"), USER_DEFINED),
        **dict.fromkeys(("<s>", "</s>", "<start_of_image>"), USER_DEFINED),
    },
}
END = {"Qwen2.5-Coder": "<|im_end|>", "Qwen3": "<|im_end|>", "Gemma-3": "<eos>"}
GEMMA = "gemma-3-270m-q4_k_m.gguf"
REAL = {
    "qwen2.5-coder-0.5b": ("<tool_call>",),
    "qwen2.5-coder-1.5b": ("<tool_call>",),
    GEMMA: ("<b>", "<code>", "</code>", "<table>", "<s>"),
}
"""Real vocabularies, by the name that `masa pull` takes or the file's, with tags that are tokens of text in them."""
TEXT = (
    "<think>Is it <b>bold</b>?</think> Say <code>ls</code>, then <tool_call>{}</tool_call>; "
    "<s>no</s> <table> [multimodal]"
)

Made = Callable[[str], Tokenizer]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("vocabularies")


def llama(name: str, folder: Path) -> LlamaBackend:
    path = folder / f"{name}.gguf"
    if not path.exists():
        write_vocabulary(path, VOCABULARIES[name], eos=END[name])
    return LlamaBackend.load(path, vocab_only=True)


def onnx(name: str, folder: Path) -> JsonTokenizer:
    reference = llama(name, folder)
    path = folder / name / TOKENIZER_NAME
    path.parent.mkdir(exist_ok=True)
    write_tokenizer(folder / f"{name}.gguf", path, reference)
    tokenizer = JsonTokenizer(path, vocabulary=reference.vocabulary, eos=reference.token_id(END[name]) or 0)
    prove(tokenizer, reference, [TEXT], name)
    return tokenizer


def transformers(name: str, folder: Path) -> FolderTokenizer:
    from transformers import PreTrainedTokenizerFast

    onnx(name, folder)
    whole = PreTrainedTokenizerFast(tokenizer_file=str(folder / name / TOKENIZER_NAME), eos_token=END[name])
    whole.save_pretrained(folder / name / "saved")
    return FolderTokenizer(folder / name / "saved")


BACKENDS = {"llama": llama, "onnx": onnx, "transformers": transformers}


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", VOCABULARIES)
def test_only_tokens_of_type_control_are_control(name: str, backend: str, folder: Path) -> None:
    tokenizer = BACKENDS[backend](name, folder)
    types = VOCABULARIES[name]
    assert set(tokenizer.control_tokens()) == {token for token, kind in types.items() if kind == CONTROL}
    for token, kind in types.items():
        assert (tokenizer.token_id(token) is not None) == (kind == CONTROL), token


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", VOCABULARIES)
def test_tags_are_text_into_ids_and_back(name: str, backend: str, folder: Path) -> None:
    tokenizer = BACKENDS[backend](name, folder)
    tokens = tokenizer.tokenize([Segment(TEXT)])
    assert tokens == llama(name, folder).tokenize([Segment(TEXT)])
    assert tokenizer.detokenize(tokens).decode() == TEXT
    for number, (token, kind) in enumerate(VOCABULARIES[name].items(), start=257):
        spelled = tokenizer.detokenize([number]).decode()
        assert spelled == ("" if kind == CONTROL else token)
        inside = tokenizer.tokenize([Segment(f"a {token}")])
        assert tokenizer.detokenize(inside).decode() == f"a {token}", "spelled inside a text it stays text"
        assert (number in inside) == (kind == USER_DEFINED and token != "</s>")


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_grammar_may_spell_any_token(backend: str, folder: Path) -> None:
    """What the constraint calls forced it takes; a control token's spelling is left to other tokens."""
    tokenizer = BACKENDS[backend]("Qwen3", folder)
    for literal in ("a<tool_call>b", "<think>", "x<|im_end|>y"):
        constraint = Constraint(tokenizer.grammar_tokenizer(), f'start: "{literal}"')
        written: list[int] = []
        while not constraint.complete:
            step = constraint.forced() or [int(constraint.admitted(257 + len(VOCABULARIES["Qwen3"]), ()).argmax())]
            for token in step:
                constraint.advance(token)
            written += step
        assert tokenizer.detokenize(written).decode() == literal


def test_a_file_that_calls_its_end_token_text_still_ends_with_it(folder: Path) -> None:
    """Older conversions of ChatML models do."""
    path = write_vocabulary(folder / "old.gguf", {"<|im_start|>": USER_DEFINED, "<|im_end|>": USER_DEFINED}, eos="ÿ")
    backend = LlamaBackend.load(path, vocab_only=True)
    assert backend.token_id("<|im_end|>") == 258
    assert backend.detokenize([97, 258]) == b"a"


@pytest.mark.model
@pytest.mark.parametrize("name", REAL)
def test_real_vocabularies_keep_tags_as_text(name: str, repository: Path) -> None:
    import gguf

    if name == GEMMA:
        path = Path(os.environ.get("MASA_WEIGHTS", repository.parent / "weights")) / GEMMA
        if not path.is_file():
            pytest.skip(f"no {path}; set MASA_WEIGHTS to the folder of {GEMMA}")
    else:
        try:
            path = find_weights(name)
        except MasaError as error:
            pytest.skip(str(error))
    fields = gguf.GGUFReader(path).fields
    kinds = fields["tokenizer.ggml.token_type"].contents()
    tokens = fields["tokenizer.ggml.tokens"].contents()
    backend = LlamaBackend.load(path, vocab_only=True)
    assert set(backend.control_tokens()) == {t for t, kind in zip(tokens, kinds, strict=True) if kind == CONTROL}
    ids = backend.tokenize([Segment(TEXT)])
    assert backend.detokenize(ids).decode() == TEXT
    assert {tokens.index(tag) for tag in REAL[name]} <= set(ids)
    for number, kind in enumerate(kinds):
        if kind == USER_DEFINED:
            assert backend.detokenize([number]).decode() == tokens[number]
    for tag in REAL[name]:
        constraint = Constraint(backend.grammar_tokenizer(), f'start: "a{tag}b" | "c"')
        for token in backend.tokenize([Segment(f"a{tag}b")]):
            constraint.advance(token)
        assert constraint.complete
