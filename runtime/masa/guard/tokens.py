"""Rules on what is not text: chat-template tokens, unprintable characters, a script the source never used."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterator
from functools import lru_cache

from masa.guard.case import IGNORABLE, Case, Rule, Violation, fold, quote, where

CONTROL_TOKENS: tuple[str, ...] = (
    # ChatML (Qwen, SmolLM2, Yi, …) and the GPT-2 family; other <|…|> tokens fall under the pattern below.
    *("<|im_start|>", "<|im_end|>", "<|im_sep|>", "<|endoftext|>", "<|fim_prefix|>", "<|fim_middle|>"),
    *("<|fim_suffix|>", "<|fim_pad|>", "<|endofprompt|>", "<|padding|>"),
    # Llama 3 and 4
    *("<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
    *(
        "<|eom_id|>",
        "<|python_tag|>",
        "<|finetune_right_pad_id|>",
        "<|header_start|>",
        "<|header_end|>",
        "<|eot|>",
    ),
    # Llama 2, Mistral
    *("[INST]", "[/INST]", "<<SYS>>", "<</SYS>>", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]", "[TOOL_CALLS]"),
    *("[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]", "[TOOL_RESULTS]", "[/TOOL_RESULTS]", "[TOOL_CONTENT]"),
    *("[IMG]", "[IMG_BREAK]", "[IMG_END]", "[CONTROL_"),
    # Gemma
    *("<start_of_turn>", "<end_of_turn>", "<start_of_image>", "<end_of_image>", "<bos>", "<eos>"),
    # Phi, GPT-OSS, Command R, DeepSeek, Granite
    *(
        "<|system|>",
        "<|user|>",
        "<|assistant|>",
        "<|end|>",
        "<|tool|>",
        "<|start|>",
        "<|channel|>",
        "<|message|>",
    ),
    *(
        "<|return|>",
        "<|call|>",
        "<|START_OF_TURN_TOKEN|>",
        "<|END_OF_TURN_TOKEN|>",
        "<BOS_TOKEN>",
        "<EOS_TOKEN>",
    ),
    *("<|end▁of▁sentence|>", "<|begin▁of▁sentence|>", "<|User|>", "<|Assistant|>", "<|start_of_role|>"),
    # SentencePiece and BERT
    *(
        "<s>",
        "</s>",
        "<unk>",
        "<pad>",
        "<mask>",
        "[CLS]",
        "[SEP]",
        "[PAD]",
        "[UNK]",
        "[MASK]",
        "[gMASK]",
        "[BOS]",
    ),
    *("[EOS]", "<sop>", "<eop>"),
)
"""Chat-template tokens that no output may contain, whatever the source says; `<|…|>` is refused as a pattern."""

TAGS: tuple[str, ...] = (
    *("<think>", "</think>", "<thinking>", "</thinking>", "<reasoning>", "</reasoning>"),
    *("<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>", "<tools>", "</tools>"),
    *("<function_call>", "</function_call>", "<tool_calls>", "</tool_calls>", "<tool_use>", "</tool_use>"),
    *("<unused", "<reserved_special_token", "<extra_id_", "[PREFIX]", "[MIDDLE]", "[SUFFIX]"),
)
"""Tags that are tokens to some models and part of some environments' answer form. They may stand where the source
or the facts have them; an output that brings them up by itself is a model that started to think or to call."""

# SmolLM2 and StarCoder have tokens that are ordinary placeholders to everyone else.
_PLACEHOLDERS = frozenset({"<filename>", "<reponame>", "<repo_name>", "<file_sep>", "<issue_start>", "<empty_output>"})

_PATTERN = re.compile(r"<\|[^<>\n]{1,80}\|>|<\|(?:im|start|end|eot|eom|bos|eos|begin|fim|python)_?\w{0,40}", re.I)
_FOLDED = tuple(dict.fromkeys(fold(token) for token in CONTROL_TOKENS))
_FOLDED_TAGS = tuple(fold(token) for token in TAGS)


def control_tokens(case: Case) -> Iterator[Violation]:
    given = [token for token in case.control_tokens if _is_markup(token)]
    folded_given = [fold(token) for token in given]
    optional = [token for token in folded_given if token in _PLACEHOLDERS or token in _FOLDED_TAGS]
    never = dict.fromkeys([*_FOLDED, *(token for token in folded_given if token not in optional)])
    unless_known = [token for token in dict.fromkeys([*_FOLDED_TAGS, *optional]) if token not in case.known]
    literal = [token for token in given if fold(token) not in optional]
    for index, (raw, folded) in enumerate(zip(case.texts, case.folded, strict=True)):
        found = {match.group() for match in _PATTERN.finditer(folded)}
        found.update(token for token in never if token in folded)
        found.update(token for token in unless_known if token in folded)
        found.update(token for token in literal if token in raw)
        for token in sorted(found):
            yield Violation("control-token", f"{where(index)} contains the control token {quote(token)}", index)


def _is_markup(token: str) -> bool:
    # A vocabulary also marks bare words and white space as special; text could not avoid those.
    return len(token) > 2 and not token.isspace() and not fold(token).replace("_", "").isalnum()


# Controls, bidi embeddings, overrides and isolates, tags, private use, surrogates, replacement and noncharacters.
_UNPRINTABLE = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ue000-\uf8ff\ud800-\udfff"
    "\ufdd0-\ufdef\ufff0-\uffff\U000e0000-\U000e007f\U000f0000-\U0010ffff]"
)
_INVISIBLE = re.compile(f"[{IGNORABLE}]")
# Emoji presentation is no trick: published banks write "⚠️".
_HARMLESS = frozenset("\ufe0e\ufe0f")


def characters(case: Case) -> Iterator[Violation]:
    before = f"{case.raw_source}\n{case.facts_text}"
    ids = "".join(skill.skill_id for skill in case.source.skills)
    budget = Counter(_UNPRINTABLE.findall(before + ids))
    invisible = set(_INVISIBLE.findall(before + ids)) | _HARMLESS
    for index, text in enumerate(case.texts):
        for char, count in Counter(_UNPRINTABLE.findall(text)).items():
            budget[char] -= count
            if budget[char] < 0:
                yield Violation("characters", f"{where(index)} contains the unprintable U+{ord(char):04X}", index)
        for char in sorted(set(_INVISIBLE.findall(text)) - invisible - set(_UNPRINTABLE.findall(text))):
            yield Violation("characters", f"{where(index)} contains the invisible U+{ord(char):04X}", index)


# A name or a symbol of another script is no script change, nor is an English command among other text.
_MIN_LETTERS = 8
_MIN_SHARE = 0.03
_MIN_SHARE_LATIN = 0.6
_WORD = re.compile(r"[^\W\d_]{2,}")
# Scripts whose letters pass for each other; a word of two of them is a disguise.
_CONFUSABLE = frozenset({"LATIN", "CYRILLIC", "GREEK"})


def script(case: Case) -> Iterator[Violation]:
    source, facts = _scripts(case.raw_source), _scripts(case.facts_text)
    output = _scripts(case.raw_output)
    for name, count in output.most_common():
        before, after = max(_share(source, name), _share(facts, name)), _share(output, name)
        allowed = 4 * before + (_MIN_SHARE_LATIN if name == "LATIN" else _MIN_SHARE)
        if count >= _MIN_LETTERS and after > allowed:
            message = f"{after:.0%} of the letters are {name.title()}, in the source {before:.0%}"
            yield Violation("script", message)
    known_words = set(_WORD.findall(f"{case.raw_source}\n{case.facts_text}"))
    for index, text in enumerate(case.texts):
        if text.isascii():
            continue
        for word in dict.fromkeys(_WORD.findall(text)):
            if not word.isascii() and word not in known_words and len(_CONFUSABLE & set(map(_script, word))) > 1:
                yield Violation("script", f"{where(index)} mixes alphabets in the word {quote(word)}", index)
                break


def _share(counts: Counter[str], name: str) -> float:
    return counts[name] / max(1, counts.total())


def _scripts(text: str) -> Counter[str]:
    counts: Counter[str] = Counter()
    for char, count in Counter(text).items():
        if char.isalpha():
            counts[_script(char)] += count
    return counts


@lru_cache(maxsize=4096)
def _script(char: str) -> str:
    if char.isascii():
        return "LATIN"
    name = unicodedata.name(char, "UNKNOWN").replace("FULLWIDTH ", "").replace("HALFWIDTH ", "")
    first = name.split(" ", 1)[0].split("-", 1)[0]
    # Japanese mixes three scripts in a sentence, one of them shared with Chinese.
    return "CJK" if first in {"HIRAGANA", "KATAKANA", "BOPOMOFO", "KANGXI"} else first


RULES = (
    Rule(
        "control-token",
        "No chat-template or control token of any model family, in any disguise.",
        control_tokens,
    ),
    Rule("characters", "No unprintable or invisible character that the source lacks.", characters),
    Rule("script", "No change of script, and no word of mixed alphabets.", script),
)
