"""The tokenizer of an ONNX artifact whose vocabulary falls back to bytes, as SentencePiece's do."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("tokenizers")
pytest.importorskip("llguidance")

from masa.backends.onnx_tokenizer import JsonTokenizer
from masa.prompt import Segment

WORDS = ["<unk>", "<end>", *(f"<0x{byte:02X}>" for byte in range(256)), "\u2581", "a", "b", "ab", "\u2581ab"]
NUMBERS = {token: number for number, token in enumerate(WORDS)}


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> JsonTokenizer:
    from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers

    merges = [("a", "b"), ("\u2581", "ab")]
    made = Tokenizer(models.BPE(NUMBERS, merges, byte_fallback=True, fuse_unk=True, unk_token="<unk>"))
    made.normalizer = normalizers.Replace(" ", "\u2581")
    made.decoder = decoders.Sequence([decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()])
    made.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in ("<unk>", "<end>")])
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    made.save(str(path))
    return JsonTokenizer(path, vocabulary=len(WORDS), eos=NUMBERS["<end>"])


@pytest.mark.parametrize("byte", range(256))
def test_every_byte_token_spells_its_byte(tokenizer: JsonTokenizer, byte: int) -> None:
    """0xFF too, by which llguidance marks special tokens."""
    token = NUMBERS[f"<0x{byte:02X}>"]
    assert tokenizer.detokenize([token]) == bytes([byte])
    a = NUMBERS["a"]
    assert tokenizer.detokenize([a, token, token, a, token]) == b"a" + 2 * bytes([byte]) + b"a" + bytes([byte])


@given(st.text(alphabet="ab ü\u20ac\U0001f600", max_size=20))
def test_what_is_read_spells_the_text(tokenizer: JsonTokenizer, text: str) -> None:
    assert tokenizer.detokenize(tokenizer.tokenize([Segment(text)])).decode() == text


def test_special_tokens_spell_nothing(tokenizer: JsonTokenizer) -> None:
    tokens = tokenizer.tokenize([Segment("<end>", True), Segment("ab<end>")])
    assert tokens[0] == NUMBERS["<end>"] and NUMBERS["<end>"] not in tokens[1:]
    assert tokenizer.detokenize(tokens) == b"ab<end>"
