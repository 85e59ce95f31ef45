"""A `tokenizer.json` that reads text as llama.cpp does, written from a GGUF.

What transformers builds from a GGUF is wrong for both models tried, so the vocabulary, its merges and llama.cpp's own
rule for cutting text into words are written down here. `masa export onnx` proves the result on every token.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from masa.errors import BackendError, MissingExtraError
from masa.prompt import Segment

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


def write_tokenizer(gguf_file: Path, target: Path, reference: LlamaBackend | None = None) -> None:
    """Write the tokenizer of `gguf_file` as `target`.

    `reference` is llama.cpp with that file's vocabulary. Without it every user-defined token is taken for one that
    llama.cpp reads from text, which is not so for `</s>` in Gemma's.

    Raises:
        MissingExtraError: without the packages gguf and tokenizers.
        BackendError: if it is of a kind that is not known here.
    """
    try:
        import gguf
        from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers
    except ImportError:
        raise MissingExtraError("writing a tokenizer", "onnx") from None

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
            raise BackendError(
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
            raise BackendError(
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
        raise BackendError(f"{gguf_file}: a tokenizer of kind {kind!r}, known are gpt2 and llama")
    # The token that ends texts is control whatever its type is.
    controls = {tokens[value("eos_token_id")]} if reference is None else set(reference.control_tokens())
    added = [
        AddedToken(token, special=kind != _USER_DEFINED or token in controls, normalized=False)
        for number, (token, kind) in enumerate(zip(tokens, kinds, strict=True))
        if kind in (_CONTROL, _UNKNOWN)
        or token in controls
        # llama.cpp does not read every user-defined token from text: Gemma's `</s>` looks like an end to it.
        or (kind == _USER_DEFINED and (reference is None or reference.tokenize((Segment(token),)) == [number]))
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
