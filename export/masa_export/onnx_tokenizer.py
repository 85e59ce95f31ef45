"""A `tokenizer.json` that reads text as llama.cpp does: built from the base's GGUF, and proven.

What transformers builds from a GGUF is wrong for both models tried, so the vocabulary, its
merges and llama.cpp's own rule for cutting text into words are written down here. No tokenizer is trusted: `prove`
compares it with llama.cpp on every token of the vocabulary and on texts that tokenizers differ on.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from masa.backends.onnx_tokenizer import JsonTokenizer
from masa.prompt import Segment
from masa_export.errors import ExportError
from masa_export.verify.tokens import compare_tokens

if TYPE_CHECKING:
    from masa.backends.llama import LlamaBackend

_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}%s"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
# tokenizer.ggml.pre -> how words are cut: a pattern, or one of two rules of the library's own.
_PRE: Mapping[str, str] = {
    "smollm": "digits, words",
    "gpt-2": "words",
    "qwen2": _WORDS % "",
    "llama-bpe": _WORDS % "{1,3}",
}
_NORMAL, _UNKNOWN, _CONTROL, _USER_DEFINED = 1, 2, 3, 4  # gguf's TokenType
_BLANK = "\u2581"
_MIXED_TEXTS = 200


def write_tokenizer(gguf_file: Path, target: Path, reference: LlamaBackend) -> None:
    """Write the tokenizer of `gguf_file` as `target`; `reference` is llama.cpp with that file's vocabulary.

    Raises:
        ExportError: if it is of a kind that is not known here.
    """
    import gguf
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

    fields = gguf.GGUFReader(gguf_file).fields

    def value(key: str, default: Any = None) -> Any:
        field = fields.get(f"tokenizer.ggml.{key}")
        return default if field is None else field.contents()

    kind, tokens = value("model"), value("tokens")
    kinds = value("token_type") or [_NORMAL] * len(tokens)
    vocabulary = {token: number for number, token in enumerate(tokens)}
    tokenizer: Any
    if kind == "gpt2":
        name = str(value("pre"))
        if name not in _PRE:
            raise ExportError(
                f"{gguf_file}: cuts words as {name!r}, known are {', '.join(_PRE)}; give a Hugging Face base with its "
                "own tokenizer.json"
            )
        merges = [tuple(merge.split(" ", 1)) for merge in value("merges")]
        tokenizer = Tokenizer(models.BPE(vocabulary, merges, ignore_merges=name == "llama-bpe"))
        whole = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
        if _PRE[name] == "words":
            tokenizer.pre_tokenizer = whole
        elif _PRE[name] == "digits, words":
            tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), whole])
        else:
            tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
                [
                    pre_tokenizers.Split(Regex(_PRE[name]), "isolated"),
                    pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
                ]
            )
        tokenizer.decoder = decoders.ByteLevel()
    elif kind == "llama":
        if value("add_space_prefix", True):
            raise ExportError(
                f"{gguf_file}: its tokenizer begins texts with a blank, which is not known here; give a Hugging Face "
                "base with its own tokenizer.json"
            )
        tokenizer = Tokenizer(
            models.BPE(
                vocabulary,
                _merges(tokens, kinds, value("scores"), vocabulary),
                byte_fallback=True,
                fuse_unk=True,
                unk_token=tokens[value("unknown_token_id", 0)],
            )
        )
        tokenizer.normalizer = normalizers.Replace(" ", _BLANK)
        tokenizer.decoder = decoders.Sequence([decoders.Replace(_BLANK, " "), decoders.ByteFallback(), decoders.Fuse()])
    else:
        raise ExportError(f"{gguf_file}: a tokenizer of kind {kind!r}, known are gpt2 and llama")
    # The token that ends texts is control whatever its type is.
    controls = set(reference.control_tokens())
    added = [
        AddedToken(token, special=kind != _USER_DEFINED or token in controls, normalized=False)
        for number, (token, kind) in enumerate(zip(tokens, kinds, strict=True))
        if kind in (_CONTROL, _UNKNOWN)
        or token in controls
        # llama.cpp does not read every user-defined token from text: Gemma's `</s>` looks like an end to it.
        or (kind == _USER_DEFINED and reference.tokenize((Segment(token),)) == [number])
    ]
    tokenizer.add_special_tokens([token for token in added if token.special])
    tokenizer.add_tokens([token for token in added if not token.special])
    tokenizer.save(str(target), pretty=False)


def _merges(
    tokens: Sequence[str], kinds: Sequence[int], scores: Sequence[float], vocabulary: Mapping[str, int]
) -> list[tuple[str, str]]:
    """SentencePiece's scores as merges: the pair whose whole scores best is merged first."""
    plain = [number for number, kind in enumerate(kinds) if kind == _NORMAL and len(tokens[number]) > 1]
    found = []
    for number in sorted(plain, key=lambda number: (-scores[number], number)):
        token = tokens[number]
        pairs = ((token[:cut], token[cut:]) for cut in range(1, len(token)))
        found += [pair for pair in pairs if pair[0] in vocabulary and pair[1] in vocabulary]
    return found


def prove(tokenizer: JsonTokenizer, reference: LlamaBackend, texts: Sequence[str], where: str) -> int:
    """Compare `tokenizer` with llama.cpp: every token's bytes, every token's spelling as a text, `texts`, texts mixed
    of tokens, Unicode, and look-alikes of special tokens. Returns how many texts were compared.

    Raises:
        ExportError: naming the first difference.
    """
    for number in range(reference.vocabulary):
        ours, theirs = tokenizer.detokenize([number]), reference.detokenize([number])
        if ours != theirs:
            raise ExportError(f"{where}: token {number} spells {ours!r}, in llama.cpp {theirs!r}; nothing was written")
    spelled = [reference.detokenize([number]).decode("utf-8", "replace") for number in range(reference.vocabulary)]
    found = compare_tokens(tokenizer, reference, [*texts, *_mixed(spelled), *(text for text in spelled if text)])
    if found.mismatches:
        raise ExportError(
            f"{where}: tokenizer.json does not read text as llama.cpp does ({found.different} of {found.texts} texts, "
            f"{found.moved} special tokens; first: {found.first}); nothing was written"
        )
    return found.texts


def _mixed(spelled: Sequence[str]) -> Iterator[str]:
    """Texts of tokens drawn at random, the same ones every time."""
    draw = random.Random(0)
    for _ in range(_MIXED_TEXTS):
        yield "".join(draw.choices(spelled, k=30))
