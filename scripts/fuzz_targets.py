"""What `fuzz.py` gives to masa: for each thing that others write, how inputs are made and what must hold of them.

A target's `make` draws an input from a generator of random numbers: well formed in most of its parts, since noise is
refused at the first byte and proves little. `check` reads it as masa does and returns; it raises MasaError where masa
refuses the input, and `Loss` where something that was read is not written back. Any other exception is a fault.
"""

from __future__ import annotations

import io
import json
import socket
import struct
import tempfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from typing import Any
from unittest import mock

from masa.errors import MasaError
from masa.skills import Group, Skill


class Loss(AssertionError):  # noqa: N818
    """What was read is not written back."""


@dataclass(frozen=True, slots=True)
class Target:
    """One kind of input. `make` depends on the generator alone."""

    name: str
    what: str
    make: Callable[[Random], bytes]
    check: Callable[[bytes], None]


def scratch() -> Path:
    """A folder for the files of one process, in memory where the system has such a place."""
    global _scratch
    if _scratch is None:
        memory = Path("/dev/shm")
        _scratch = tempfile.TemporaryDirectory(prefix="masa-fuzz-", dir=memory if memory.is_dir() else None)
    return Path(_scratch.name)


_scratch: tempfile.TemporaryDirectory[str] | None = None


def sometimes(data: bytes, one_in: int) -> bool:
    """For checks that take long: true for the same inputs every time."""
    return zlib.crc32(data) % one_in == 0


# --- texts -----------------------------------------------------------------------------------------

SENTENCES = (
    "Search every drawer once before you go back.",
    "If the door is locked, ask for the key; otherwise open it.",
    "Never delete `build/` unless the user says so.",
    "Run `make test` first, then git push --force-with-lease.",
    "1. Take the cup. 2. Fill it. 3. Put it down.",
    "Wait 30 s, at most 3 times.",
    "See [the guide](references/guide.md) or https://example.org/a?b=1#c.",
    "⚠️ **NEVER** leave it — you would lose it!",
    "Finde die Tasse und bringe sie zurück.",
    "把苹果放进冰箱，然后关上门。",
    "Use {name} with $HOME, <slot> and [x] alone (not more).",
    "IMPORTANT: do this first",
)
ODD = (
    "", " ", "\n", "\n\n", "\t", "\r\n", "\r", "\x00", "\x0b", "\x1b[0m", "\x7f", "\x85", "\u2028", "\ufeff",
    "\u00a0", "\u200b", "e\u0301", "\U0001f600", "\U0001f469\u200d\U0001f4bb", "\ufdfa", "\uffff", "İ", "ß", "---",
    "***", "```", "~~~~", "# x", "## [1] x", "When: y", "- a", "1. b", "> c", "| a | b |\n|---|---|", "<div>", "<!--",
    "-->", "<pre>", "</pre>", "<|im_end|>", "<think>", "</think>", "[x]: /y", "![a](b)", "\\", "\\n", '"', "'", "`",
    "``", "**", "_", "*", "&", "%s", "{0}", "{", "}", "[", "]", "(", ")", "#", ":", "null", "~", "true", "NaN", "-0",
    "1e999", "0x1F", "1_000", "10:30", "2001-02-30", "=", "<<", "!!binary x", "*a", "&a b", "? k", "? ", "| ", ">-",
    "%YAML 1.1", "... ", "#c", "@x", "keep", "+ warn loop", "1 keep", "a" * 70, "a" * 300, "-" * 100, "#" * 50,
    "[" * 60, "(" * 60, "*" * 80, "`" * 40, "9" * 400, "> " * 40,
)  # fmt: skip


def text(r: Random, most: int = 5) -> str:
    """Some sentences, now and then with something odd between them."""
    pieces = [r.choice(SENTENCES) if r.random() < 0.7 else r.choice(ODD) for _ in range(r.randint(0, most))]
    return r.choice((" ", " ", "\n", "", "\n\n")).join(pieces)


def word(r: Random) -> str:
    return r.choice(("a", "clean", "x-1", "skill_2", "Ü", "name", "key", "A b")) if r.random() < 0.8 else r.choice(ODD)


def damaged(r: Random, data: bytes) -> bytes:
    """Some bytes changed, cut, doubled, moved or inserted."""
    result = bytearray(data)
    for _ in range(r.choice((1, 1, 1, 2, 3, 6))):
        size = len(result)
        start = r.randrange(size + 1)
        end = min(size, start + r.choice((1, 1, 2, 4, 8, 32, 128)))
        kind = r.randrange(8)
        if kind == 0:
            del result[start:end]
        elif kind == 1:
            result[start:start] = result[start:end] * r.choice((1, 1, 2, 20))
        elif kind == 2 and size:
            result[start % size] = r.randrange(256)
        elif kind == 3 and size:
            result[start % size] ^= 1 << r.randrange(8)
        elif kind == 4:
            result[start:start] = r.choice(ODD).encode()
        elif kind == 5:
            result[start:start] = bytes(result[(at := r.randrange(size + 1)) : at + 16])
        elif kind == 6:
            result[start:start] = r.choice((b"\xff", b"\xc3", b"\xed\xa0\x80", b"\xef\xbb\xbf", b"\xf4\x90\x80\x80"))
        elif r.random() < 0.2:
            del result[start:]
    return bytes(result)


# --- JSON ------------------------------------------------------------------------------------------


def odd_value(r: Random, depth: int = 0) -> Any:
    kind = r.randrange(12)
    if kind < 2 or depth > 3:
        return r.choice((None, True, False, 0, -1, 1, 0.5, -0.0, 1e308, 2**53 + 1, 2**64, 10**30, "", "0", "\ud800"))
    if kind < 7:
        return text(r, 2)
    if kind < 9:
        return [odd_value(r, depth + 1) for _ in range(r.randrange(3))]
    if kind < 11:
        return {word(r): odd_value(r, depth + 1) for _ in range(r.randrange(3))}
    return [[[{"k": [{"k": []}]}]]]


def altered(r: Random, value: Any) -> Any:
    """A JSON value with one thing in it replaced, removed, renamed or doubled; containers are changed in place."""
    if not isinstance(value, dict | list) or not value or r.random() < 0.06:
        return odd_value(r)
    keys = list(value) if isinstance(value, dict) else list(range(len(value)))
    key = r.choice(keys)
    if r.random() < 0.55:
        value[key] = altered(r, value[key])
    elif isinstance(value, list):
        r.choice((lambda: value.pop(key), lambda: value.append(value[key]), lambda: value.insert(key, odd_value(r))))()
    else:
        kept = value.pop(key)
        if r.random() < 0.6:
            value[word(r)] = kept if r.random() < 0.5 else odd_value(r)
    return value


def as_json(r: Random, value: Any) -> bytes:
    """Spelled in one of the ways that files are."""
    style = r.randrange(6)
    indent = (None, 2, 4, "\t", 1, 0)[style]
    separators = r.choice((None, None, (",", ":"), (",", ": "), (", ", ":"), (" ,", " : ")))
    spelled = json.dumps(value, indent=indent, separators=separators, ensure_ascii=r.random() < 0.3)
    if r.random() < 0.02:
        depth = r.choice((30, 100, 300, 480, 900, 990, 2000))
        opening, closing = r.choice((("[", "]"), ('{"k": ', "}"), ('[0, {"k": [', "]}]")))
        spelled = spelled.replace('""', opening * depth + "0" + closing * depth, 1)
    elif r.random() < 0.15:
        old = r.choice(('"', "e", "0", ":", ",", "\n", "a", "}", "/"))
        new = r.choice(
            ("\\u0061", "\\/", "1e999", "1.10", "NaN", "00", "\r\n", '""', ",", " ", "\t", "9" * 5000, "null")
        )
        at = spelled.find(old, r.randrange(len(spelled) + 1))
        if at >= 0:
            spelled = spelled[:at] + new + spelled[at + (r.random() < 0.7) :]
    data = spelled.encode("utf-8", "surrogatepass" if r.random() < 0.1 else "replace")
    data += r.choice((b"", b"\n", b"\n", b"\r\n", b"\n\n "))
    if r.random() < 0.1:
        data = data.replace(b"\n", b"\r\n")
    return (b"\xef\xbb\xbf" if r.random() < 0.08 else b"") + data


def json_input(r: Random, value: Any) -> bytes:
    """A JSON file: as it should be, altered, or damaged."""
    for _ in range(r.choice((0, 0, 0, 1, 1, 1, 2, 4))):
        value = altered(r, value)
    data = as_json(r, value)
    return damaged(r, data) if r.random() < 0.12 else data


# --- skill banks -----------------------------------------------------------------------------------


def _skill(r: Random, number: int) -> dict[str, Any]:
    skill: dict[str, Any] = {"skill_id": f"gen_{number:03d}", "title": text(r, 1), "principle": text(r)}
    if r.random() < 0.7:
        skill["when_to_apply"] = text(r, 1)
    if r.random() < 0.3:
        skill[word(r)] = odd_value(r)
    if r.random() < 0.1:
        skill = dict(reversed(skill.items()))
    return skill


def make_bank(r: Random) -> bytes:
    bank: dict[str, Any] = {"general_skills": [_skill(r, n) for n in range(r.randrange(4))]}
    types = {word(r): [_skill(r, n) for n in range(r.randrange(3))] for _ in range(r.randrange(3))}
    bank[r.choice(("task_specific_skills", "task_specific_skills", "query_type_skills"))] = types
    if r.random() < 0.5:
        bank["common_mistakes"] = [{"mistake_id": "m1", "description": text(r, 2)}] * r.randrange(3)
    if r.random() < 0.4:
        bank["metadata"] = odd_value(r)
    return json_input(r, bank)


def check_bank(data: bytes) -> None:
    from masa.formats.bank_json import dump_bank, loads_bank

    bank = loads_bank(data)
    if dump_bank(bank) != data:
        raise Loss("an unchanged bank is written otherwise than it was read")
    key = next(group.key for group in bank.groups() if len(group))
    group = bank.group(key)
    place = len(data) % len(group)
    changed = replace(group.skills[place], principle='Do it "once"\\ only.\nThen stop, Zoë.')
    skills = (*group.skills[:place], changed, *group.skills[place + 1 :])
    new = bank.with_groups({key: Group(group.task_type, skills)})
    again = loads_bank(dump_bank(new))
    if list(again.groups()) != list(new.groups()) or repr(again.common_mistakes) != repr(new.common_mistakes):
        raise Loss("a changed bank is read back otherwise than it was written")
    for before, after in zip(new.groups(), again.groups(), strict=True):
        for old, read in zip(before.skills, after.skills, strict=True):
            if list(old.extra) != list(read.extra) or repr(dict(old.extra)) != repr(dict(read.extra)):
                raise Loss(f"unknown fields of the skill {old.skill_id!r} are lost")


# --- SKILL.md --------------------------------------------------------------------------------------

_BLOCKS = (
    "# Title", "## When {x} fails", "### Steps #", "Setext\n===", "Setext two\n---", "#", "####### seven",
    "```bash\nmake build  # {target}\n\n- not a list\n```", "```\nopen fence", "~~~\n```\n~~~", "    indented = code",
    "- first, take it\n- second\n  - nested <slot>\n\n  A paragraph.", "3. open it\n4. close it", "* * *", "-\n\n  x",
    "| a | b |\n|---|---|\n| `1` | {y} |", "> quoted\n> ## not a heading", "<div>\nraw\n</div>", "<!-- open", "<pre>",
    "<Good>\n```py\nx = 1\n```\n</Good>", "[id]: https://example.org 'title'", "- [ ] task\n- [x] done",
    "a\\\nb  \nc", "**Never guess.** Look first.", "<script>\n# no heading\n</script>", "- ```\n  code\n  ```",
    "&amp; &#x0; \\# \\*",
)  # fmt: skip
_YAML = (
    '"quoted: text"', "'single ''quoted'''", "|\n  block\n  # text\n  --- in it", ">-\n  folded\n\n  text",
    "plain text", "Use when: the user asks", "[a, b]", "{a: 1}", "1.10", "2024-01-01", "true", "~", "", "*x",
    "&x [1]", "!!str 5", "!x y", "|2\n   x", "- a\n- b", "\n  version: 1.10\n  author: me", "@at", "`tick`",
    "%percent", "#comment", "a #comment", "\t", "!!python/object:os.system x", "&a [*a]", '"\\ud800"', '"\\x00"',
    "0o17", "1:30", ".nan", "? x", "a: b: c", "=", "<<",
)  # fmt: skip
_KEYS = (
    "license", "compatibility", "metadata", "allowed-tools", "model", "when_to_use", "name", "x", "<<", "1", "true",
    "?",
)  # fmt: skip


def make_skill_md(r: Random) -> bytes:
    lines = ["---", f"name: {'my-skill' if r.random() < 0.8 else r.choice((word(r), r.choice(_YAML)))}"]
    if r.random() < 0.9:
        lines.append(f"description: {r.choice(_YAML) if r.random() < 0.3 else r.choice(SENTENCES)}")
    for _ in range(r.choice((0, 0, 0, 1, 2))):
        lines.append(f"{r.choice(_KEYS)}: {r.choice(_YAML)}")
    if r.random() < 0.02:
        lines += ["b0: &b0 [x, x]", *(f"b{n}: &b{n} [*b{n - 1}, *b{n - 1}, *b{n - 1}]" for n in range(1, 30))]
        lines[1] = r.choice((lines[1], "name: &n [*b29]"))
        lines.append(f"{r.choice(_KEYS)}: *b29")
    if r.random() < 0.03:
        r.shuffle(lines)
    lines.append(r.choice(("---",) * 30 + ("--- ", "...", "----")))
    body = [r.choice(_BLOCKS) if r.random() < 0.6 else text(r) for _ in range(r.randint(0, 7))]
    whole = "\n".join(lines) + "\n" + r.choice(("\n", "\n", "\n\n\n", "")) + r.choice(("\n\n", "\n\n", "\n")).join(body)
    whole += r.choice(("\n", "\n", "", "\n\n"))
    if r.random() < 0.15:
        whole = whole.replace("\n", r.choice(("\r\n", "\r\n", "\r")))
    data = whole.encode("utf-8", "replace")
    if r.random() < 0.05:
        data = b"\xef\xbb\xbf" + data
    return damaged(r, data) if r.random() < 0.2 else data


def check_skill_md(data: bytes) -> None:
    from masa.formats.skill_md_document import parse_document
    from masa.formats.skill_md_render import render_document

    if sometimes(data, 64):
        _check_skill_folder(data)
    document = parse_document(data, "SKILL.md")
    skills = document.skills()
    if render_document(document, skills, "SKILL.md") != data:
        raise Loss("an unchanged SKILL.md is written otherwise than it was read")
    place = len(data) % len(skills)
    changed = replace(skills[place], principle="Do it once.\n\n1. Then stop.\n2. Say so.")
    written = render_document(document, (*skills[:place], changed, *skills[place + 1 :]), "SKILL.md")
    read = [(skill.title, skill.principle) for skill in parse_document(written, "SKILL.md").skills()]
    wanted = [(s.title, changed.principle if n == place else s.principle) for n, s in enumerate(skills)]
    lost = bool(read != wanted)
    if b"<" in data:  # whether a tag on its own line swallows a heading below it depends on fences further down
        # A heading that joins the text above it loses its line break, and the text before the first heading loses the
        # folder's name, its title.
        lost = bool(_letters(wanted) - _letters(read) - _letters([(skills[0].title, "")]))
    if lost:
        raise Loss("a SKILL.md with one changed section is read back otherwise than it was written")


def _letters(skills: list[tuple[str, str]]) -> Counter[str]:
    return Counter("".join("".join(map("".join, skills)).split()))


def _check_skill_folder(data: bytes) -> None:
    from masa.formats.skill_md import load_skill_folder, save_skill_folder, validate_skill_folder

    folder = scratch() / "my-skill"
    folder.mkdir(exist_ok=True)
    (folder / "SKILL.md").write_bytes(data)
    for problem in validate_skill_folder(folder):
        if not str(problem).isprintable():
            raise Loss(f"a problem is told in more than one printable line: {str(problem)!r}")
    try:
        bank = load_skill_folder(folder)
    except MasaError:
        return
    with tempfile.TemporaryDirectory(dir=scratch()) as out:
        save_skill_folder(bank, Path(out) / "copy")
        if (Path(out) / "copy" / "SKILL.md").read_bytes() != data:
            raise Loss("the copy of an unchanged folder has another SKILL.md")


# --- GGUF ------------------------------------------------------------------------------------------

_METADATA: tuple[tuple[str, Any], ...] = (
    ("general.type", "model"),
    ("general.name", "Tiny Instruct 1.5B"),
    ("general.basename", "Tiny"),
    ("general.size_label", "1.5B"),
    ("general.finetune", "Instruct"),
    ("general.parameter_count", 1_500_000_000),
    ("general.file_type", 15),
    ("general.alignment", 32),
    ("llama.block_count", 24),
    ("llama.context_length", 4096),
    ("llama.embedding_length", 64),
    ("llama.attention.head_count", 8),
    ("llama.attention.head_count_kv", [2, 2, 4]),
    ("llama.expert_count", 8),
    ("llama.rope.freq_base", 10000.0),
    ("llama.ssm.conv_kernel", 4),
    ("llama.vocab_size", 300),
    ("llama.nextn_predict_layers", 1),
    ("split.count", 2),
    ("split.no", 0),
    ("tokenizer.ggml.model", "gpt2"),
    ("tokenizer.ggml.tokens", [f"t{n}" for n in range(40)]),
    ("tokenizer.ggml.scores", [0.5] * 1500),
    ("tokenizer.chat_template", "{% for m in messages %}{{ m.content }}{% endfor %}"),
    ("adapter.type", "lora"),
)
_COUNTS = (0, 1, 3, 2**20, 2**31, 2**32 - 1, 2**40, 2**62, 2**63, 2**64 - 1)
_ARCHITECTURES = ("llama", "llama", "llama", "qwen3", "mamba", "clip", "", "Ü", "a" * 300)


def _string(r: Random, value: str | bytes) -> bytes:
    data = value.encode("utf-8", "replace") if isinstance(value, str) else value
    length = len(data) if r.random() < 0.999 else r.choice(_COUNTS)
    return struct.pack("<Q", length) + data


def _gguf_value(r: Random, value: Any) -> tuple[int, bytes]:
    """The number of a value's type, and the value."""
    if isinstance(value, str):
        return 8, _string(r, value)
    if isinstance(value, list):
        kind, first = _gguf_value(r, value[0] if value else 0)
        # All items are spelled as the first one is; few are enough, as most are stepped over.
        items = b"".join(_string(r, item) for item in value) if kind == 8 else first * len(value)
        count = len(value) if r.random() < 0.98 else r.choice(_COUNTS)
        return 9, struct.pack("<IQ", kind, count) + items
    if isinstance(value, float):
        kind, form = r.choice(((6, "f"), (12, "d")))
    elif isinstance(value, bool):
        kind, form = 7, "?"
    else:
        kind, form = r.choice(((4, "I"), (4, "I"), (10, "Q"), (5, "i"), (11, "q"), (0, "B"), (2, "H")))
        value = value & ((1 << (8 * struct.calcsize(form) - 1)) - 1)
    return kind, struct.pack(f"<{form}", value)


def _odd_gguf_value(r: Random) -> Any:
    nested: Any = [1]
    for _ in range(r.choice((1, 3, 5, 40))):
        nested = [nested]
    return r.choice(
        (0, 1, 2**31 - 1, "", text(r, 2), "\x00", 0.0, float("nan"), float("inf"), True, [], ["a", "b"], nested)
    )


def make_gguf(r: Random) -> bytes:
    architecture = r.choice(_ARCHITECTURES)
    pairs = [("general.architecture", architecture)] if r.random() < 0.97 else []
    for key, value in r.sample(_METADATA, r.randint(2, 14)):
        pairs.append((key.replace("llama", architecture or "llama"), value if r.random() < 0.8 else _odd_gguf_value(r)))
    if r.random() < 0.1:
        pairs.append((text(r, 1), _odd_gguf_value(r)))
    if r.random() < 0.02 and pairs:
        pairs.append(r.choice(pairs))
    body = b""
    for key, value in pairs:
        kind, spelled = _gguf_value(r, value)
        body += _string(r, key) + struct.pack("<I", kind if r.random() < 0.997 else r.randrange(15)) + spelled
    tensors = b""
    count, offset = r.choice((0, 1, 2, 2, 3)), 0
    for number in range(count):
        shape = [r.choice((1, 8, 32)) for _ in range(r.randint(1, 2))]
        if r.random() < 0.05:
            shape = [r.choice(_COUNTS) for _ in range(r.randrange(7))]
        tensors += _string(r, f"blk.{number}.weight") + struct.pack(f"<I{len(shape)}Q", len(shape), *shape)
        tensors += struct.pack(
            "<IQ", r.choice((0, 0, 1, 2, 8, 12, 30, 99)), offset if r.random() < 0.97 else r.choice(_COUNTS)
        )
        offset += 4096
    version = 3 if r.random() < 0.97 else r.choice((0, 1, 2, 4, 3 << 24))
    counts = [n if r.random() < 0.985 else r.choice(_COUNTS) for n in (count, len(pairs))]
    data = b"GGUF" + struct.pack("<IQQ", version, *counts) + body + tensors
    if r.random() < 0.2:
        return damaged(r, data)
    return data + bytes(r.choice((0, offset + 4096, offset + 4096, offset + 4096)))


def check_gguf(data: bytes) -> None:
    from masa.detect import detect_gguf
    from masa.formats.gguf_header import read_header

    names = ("model.gguf", "Tiny-7B-Instruct-Q4_K_M.gguf", "tiny-00001-of-00002.gguf")
    path = scratch() / names[len(data) % len(names)]
    path.write_bytes(data)
    header = read_header(path, check_size=False)
    if header.size != len(data) or not len(data) + 2**63 > header.data_offset >= 24:
        raise Loss("the header's place in the file is wrong")
    card = detect_gguf(path).card
    if sometimes(data, 8):
        _check_card(card)


def _check_card(card: Any) -> None:
    """A card that was read is one that could be saved: it is what its own file says."""
    from masa.cards import dump_card, loads_card

    if loads_card(dump_card(card)).fields() != card.fields():
        raise Loss("the card is read back otherwise than it was written")


# --- config.json -----------------------------------------------------------------------------------

_CONFIG: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 4096,
    "vocab_size": 300,
    "torch_dtype": "bfloat16",
    "_name_or_path": "org/Tiny-1.5B-Instruct",
}
_CONFIG_MORE: dict[str, Any] = {
    "num_local_experts": 8,
    "num_experts_per_tok": 2,
    "layer_types": ["full_attention", "sliding_attention"],
    "rope_scaling": {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 1024},
    "quantization_config": {"bits": 4, "quant_method": "gptq"},
    "n_head": 4,
    "n_layer": 2,
    "n_embd": 64,
    "max_seq_len": [2048],
    "mamba_d_conv": 4,
    "num_nextn_predict_layers": 1,
    "auto_map": {"AutoModel": "x.Y"},
}
_PARTS = b"\n%%%%\n"
"""Between config.json, tokenizer_config.json and the header of model.safetensors."""


def make_config(r: Random) -> bytes:
    config = dict(_CONFIG)
    for key in r.sample(tuple(_CONFIG_MORE), r.randrange(4)):
        config[key] = _CONFIG_MORE[key]
    for key in r.sample(tuple(config), r.randrange(3)):
        del config[key]
    for _ in range(r.choice((0, 0, 1, 2, 3))):
        key = r.choice(("text_config", "llm_config", "language_config", "thinker_config", "vision_config", "x"))
        config = {"model_type": "multi", key: config, **({"hidden_size": 8} if r.random() < 0.2 else {})}
    parts = [json_input(r, json.loads(json.dumps(config)))]
    if r.random() < 0.4:
        parts.append(json_input(r, {"model_max_length": r.choice((4096, 1e30, "x")), "chat_template": text(r)}))
        if r.random() < 0.7:
            tensors = {"a.weight": {"dtype": r.choice(("BF16", "I32")), "shape": [64, 300], "data_offsets": [0, 4]}}
            parts.append(json_input(r, {"__metadata__": {"format": "pt"}, **tensors}))
    return _PARTS.join(parts)


def check_config(data: bytes) -> None:
    from masa.huggingface_folder import detect_folder

    folder = scratch() / "Tiny-1.5B"
    folder.mkdir(exist_ok=True)
    parts = data.split(_PARTS)
    for number, name in enumerate(("config.json", "tokenizer_config.json", "model.safetensors")):
        if number >= len(parts):
            (folder / name).unlink(missing_ok=True)
        elif name.endswith(".safetensors"):
            (folder / name).write_bytes(struct.pack("<Q", len(parts[number])) + parts[number])
        else:
            (folder / name).write_bytes(parts[number])
    card = detect_folder(folder).card
    if sometimes(data, 8):
        _check_card(card)


# --- server replies --------------------------------------------------------------------------------

_SHOWN: dict[str, Any] = {
    "modelfile": "FROM tiny",
    "details": {"family": "llama", "parameter_size": "1.5B", "quantization_level": "Q4_K_M"},
    "model_info": {
        "general.architecture": "llama",
        "general.basename": "Tiny",
        "general.parameter_count": 1_500_000_000,
        "llama.context_length": 4096,
        "llama.embedding_length": 64,
        "llama.attention.head_count": 8,
        "tokenizer.ggml.tokens": None,
    },
    "capabilities": ["completion"],
}
_LISTED: dict[str, Any] = {
    "object": "list",
    "data": [
        {"id": "tiny", "object": "model", "owned_by": "vllm", "root": "org/Tiny-1.5B", "max_model_len": 4096},
        {
            "id": "other b",
            "owned_by": "library",
            "meta": {"n_params": 15, "n_ctx_train": 8, "n_embd": 64, "n_vocab": 9},
        },
    ],
}
_HEADERS = (
    "Content-Type: application/json", "Content-Encoding: gzip", "Location: http://127.0.0.1/", "Connection: close",
    "Transfer-Encoding: chunked", "Content-Length: 5", "Content-Length: x", "Content-Length: -1", "Set-Cookie: a=b",
    "X: " + "y" * 300, "no colon", "\x00: z", "Retry-After: 1", "Transfer-Encoding: identity", ": empty",
)  # fmt: skip


def _reply(r: Random, value: Any) -> bytes:
    body = json_input(r, json.loads(json.dumps(value)))
    if r.random() < 0.08:
        body = r.choice(
            (b"", b"null", b"[]", b"<html>no</html>", b'"x"', b'{"error": "no"}', b'{"error": {"message": 5}}')
        )
    status = 200 if r.random() < 0.85 else r.choice((100, 101, 204, 301, 304, 401, 404, 418, 500, 503, 999, 0))
    head = [f"HTTP/1.1 {status} OK"]
    chunked = r.random() < 0.1
    if chunked:
        head.append("Transfer-Encoding: chunked")
        cut = r.randrange(len(body) + 1)
        body = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in (body[:cut], body[cut:]) if part) + b"0\r\n\r\n"
    elif r.random() < 0.8:
        head.append(f"Content-Length: {len(body)}")
    while r.random() < 0.15:
        head.append(r.choice(_HEADERS))
    data = "\r\n".join(head).encode("latin-1", "replace") + b"\r\n\r\n" + body
    return damaged(r, data) if r.random() < 0.08 else data


def make_server(r: Random) -> bytes:
    asked = r.choice(
        (
            b"http://127.0.0.1:1#tiny",
            b"http://127.0.0.1:1",
            b"http://127.0.0.1:1/v1#tiny",
            b"http://127.0.0.1:1 other b",
        )
    )
    ollama = b"#tiny" in asked and b"/v1" not in asked
    kinds = [_SHOWN if ollama and r.random() < 0.7 else _LISTED, _LISTED, _SHOWN]
    replies = [_reply(r, value) for value in kinds[: r.randint(1, 3)]]
    return _PARTS.join((asked, *replies))


class _Answers:
    """What a client takes for a socket: every connection is answered with the next of some replies."""

    def __init__(self, replies: Sequence[bytes]) -> None:
        self._replies: Iterator[bytes] = iter((*replies, *replies[-1:] * 20))

    def __call__(self, *_: Any, **__: Any) -> _Answers:
        return self

    def makefile(self, *_: Any, **__: Any) -> io.BytesIO:
        return io.BytesIO(next(self._replies, b""))

    def sendall(self, *_: Any) -> None:
        pass

    setsockopt = settimeout = shutdown = close = sendall


def check_server(data: bytes) -> None:
    from masa.servers import detect_server

    asked, *replies = data.split(_PARTS)
    with mock.patch.object(socket, "create_connection", _Answers(replies)):
        card = detect_server(asked.decode("utf-8", "replace"), model=None, timeout=5.0).card
    if sometimes(data, 8):
        _check_card(card)


# --- plan and text language ------------------------------------------------------------------------

_GROUPS = (
    (Skill("g1", "Search once", "Search every place once before you go back. Open what is closed.", "Not found yet"),),
    (
        Skill("c1", "Wash", "Take the cup to the sink. Clean it with `wash {cup}`, then put it down. This saves time."),
        Skill("c2", "Deliver", "If you hold it, go to the goal. Put it down there, and nowhere else."),
        Skill("c3", "Check", "- Look at the goal.\n- Say that it is done.\n\nNever guess."),
    ),
    tuple(Skill(f"s{n}", SENTENCES[n][:30], " ".join(SENTENCES[n : n + 3]), "Always.") for n in range(6)),
)


class _Written:
    """A group and everything that reading a rewriter's answer for it needs; made once in a process."""

    def __init__(self, language: str, number: int) -> None:
        from masa.facts import ActionForm, Facts
        from masa.group_rewrite import prepare
        from masa.prompt import Request

        facts = Facts("kitchen", (ActionForm("go to {place}", "walk", "go to sink 1"), ActionForm("wash {object}")))
        group = Group("t", _GROUPS[number])
        self.work = prepare(Request(group, {"family": "x"}, facts=facts if number else None), frozenset(), language)
        self._matcher: Any = None
        self._language = language

    def in_grammar(self, answer: str) -> bool | None:
        """Whether constrained decoding could have written it; None without llguidance."""
        try:
            from llguidance import LLMatcher, LLTokenizer, TokenizerWrapper
        except ImportError:
            return None
        if self._matcher is None:

            class Bytes:
                eos_token_id, bos_token_id = 256, None
                tokens = (*(bytes([n]) for n in range(256)), b"<end>")
                special_token_ids = (256,)

                def __call__(self, written: bytes | str) -> list[int]:
                    return list(written.encode() if isinstance(written, str) else written)

            grammar, regex = self.work.grammar()
            compiled = LLMatcher.grammar_from_regex(grammar) if regex else LLMatcher.grammar_from_lark(grammar)
            self._matcher = LLMatcher(LLTokenizer(TokenizerWrapper(Bytes()), n_vocab=257), compiled, log_level=0)
        data = list(answer.encode())
        self._matcher.reset()
        taken = self._matcher.try_consume_tokens(data)
        return bool(taken == len(data) and self._matcher.is_accepting())


_WRITTEN: dict[tuple[str, int], _Written] = {}


def _written(language: str, data: bytes) -> tuple[_Written, str]:
    number = data[0] % len(_GROUPS) if data else 0
    if (language, number) not in _WRITTEN:
        _WRITTEN[language, number] = _Written(language, number)
    return _WRITTEN[language, number], data[1:].decode("utf-8", "replace")


def make_plan(r: Random) -> bytes:
    from masa.edits import EDITS, WARN_KINDS

    number = r.randrange(len(_GROUPS))
    lines = []
    for n, allowed in enumerate(_written("plan", bytes([number]))[0].work.allowed, start=1):
        names = tuple(EDITS) if r.random() < 0.03 else allowed
        alone = [
            name for name in names if EDITS[name].structural and (name != "merge-up" or (n > 1 and r.random() < 0.5))
        ]
        chosen = [name for name in names if not EDITS[name].structural and r.random() < 0.3]
        if not chosen or r.random() < 0.4:
            lines.append(f"{n} {r.choice(alone)}")
            continue
        calls = [
            f"{name} {r.choice(EDITS[name].argument or ('x',))}" if EDITS[name].argument else name
            for name in chosen[:3]
        ]
        lines.append(f"{n} " + " ".join(calls))
    if r.random() < 0.4:
        lines += [
            f"+ warn {kind}" for kind in sorted(r.sample(WARN_KINDS, r.choice((1, 1, 2))), key=list(WARN_KINDS).index)
        ]
    return _answer(r, number, "\n".join(lines))


def make_text(r: Random) -> bytes:
    number = r.randrange(len(_GROUPS))
    blocks = []
    for n in range(1, r.choice((1, 2, 3, len(_GROUPS[number]))) + 1):
        sources = r.choice((str(n), str(n), str(n), str(n), "+", f"{n},1", "1", "1,1", r.choice(("0", "7", ""))))
        title = text(r, 1) if r.random() < 0.1 else r.choice(("Title", "A \\n b", "c \\\\"))
        when = r.choice(("", " always", " " + text(r, 1)))
        body = r.choice((text(r), " ".join(skill.principle for skill in _GROUPS[number][:2]), "\\## [1] x\n\\"))
        blocks.append(f"## [{sources}] {title}\nWhen:{when}\n{body}")
    return _answer(r, number, ("\n\n" if r.random() < 0.95 else "\n").join(blocks))


def _answer(r: Random, number: int, answer: str) -> bytes:
    data = answer.encode("utf-8", "replace")
    if r.random() < 0.2:
        data = damaged(r, data)
    return bytes([number]) + data


def check_plan(data: bytes) -> None:
    from masa.languages import parse_plan, render_plan

    written, answer = _written("plan", data)
    work = written.work
    try:
        plan = parse_plan(answer, work.allowed, warnings=work.warnings)
    except MasaError:
        if written.in_grammar(answer):
            raise Loss("constrained decoding may write what does not parse") from None
        raise
    if render_plan(plan) != answer:
        raise Loss("a plan is written otherwise than it was read")
    if written.in_grammar(answer) is False:
        raise Loss("a plan parses that constrained decoding could not write")
    if sometimes(data, 16):
        _accepted(written, answer)


def check_text(data: bytes) -> None:
    from masa.languages import parse_blocks, render_blocks, skills_from_blocks

    written, answer = _written("text", data)
    group = written.work.request.group
    try:
        blocks = parse_blocks(answer, len(group))
    except MasaError:
        if written.in_grammar(answer):
            raise Loss("constrained decoding may write what does not parse") from None
        raise
    if parse_blocks(render_blocks(blocks), len(group)) != blocks:
        raise Loss("blocks are read back otherwise than they were written")
    if written.in_grammar(answer) is False:
        raise Loss("blocks parse that constrained decoding could not write")
    if len({skill.skill_id for skill in skills_from_blocks(blocks, group)}) != len(blocks):
        raise Loss("two skills got one identifier")
    if sometimes(data, 16):
        _accepted(written, answer)


def _accepted(written: _Written, answer: str) -> None:
    """The whole way of an answer: edits, guard, what became of each skill, and the cache."""
    from masa.group_rewrite import accept, from_cache, to_cache

    work = written.work
    result = accept(work, answer, ("<|im_start|>", "<|im_end|>"))
    if [fate.number for fate in result.fates] != list(range(1, len(work.whole) + 1)):
        raise Loss("the fate of a skill is not told")
    if not result.output.skills or any(not skill.text.strip() for skill in result.output.skills):
        raise Loss("a group or a skill came out empty")
    found = from_cache(work, json.loads(json.dumps(to_cache(result))))
    if found is None or found.output != result.output:
        raise Loss("a result is read back from the cache otherwise than it was written")


# --- manifests and cards ---------------------------------------------------------------------------


def make_manifest(r: Random) -> bytes:
    return json_input(r, json.loads(_MANIFEST_TEXT))


_MANIFEST_TEXT = (
    Path(__file__).resolve().parent.parent / "models" / "rewriters" / "smollm2-135m" / "manifest.json"
).read_text("utf-8")


def check_manifest(data: bytes) -> None:
    from masa.manifest import parse_manifest

    manifest = parse_manifest(data, "manifest.json")
    again = json.dumps(json.loads(data.decode("utf-8-sig")), indent=1, sort_keys=True).encode()
    if parse_manifest(again, "manifest.json") != manifest:
        raise Loss("the same manifest with other white space is another one")


def make_card(r: Random) -> bytes:
    values = {
        "family": "Tiny",
        "variant": "1.5B",
        "parameter_count": "1.5B",
        "release_date": "2025-01",
        "architecture": "dense-transformer",
        "num_layers": "24",
        "context_window": "4096",
        "base_or_instruct": "instruct",
        "multilingual": "true",
        "strengths": "text",
        "weaknesses": "null",
    }
    lines = []
    for key in r.sample(tuple(values), r.randint(1, len(values))):
        value = values[key] if r.random() < 0.8 else r.choice((*_YAML, text(r, 2)))
        lines.append(f"{key if r.random() < 0.97 else word(r)}: {value}")
    if r.random() < 0.3:
        lines += ["sources:", f"  family: {r.choice(('https://example.org', *_YAML))}"]
    data = ("\n".join(lines) + "\n").encode("utf-8", "replace")
    return damaged(r, data) if r.random() < 0.25 else data


def check_card(data: bytes) -> None:
    from masa.cards import loads_card
    from masa.files import decode

    _check_card(loads_card(decode(data, "card.yaml")))


TARGETS = {
    target.name: target
    for target in (
        Target("bank", "skill bank JSON", make_bank, check_bank),
        Target("skill-md", "SKILL.md", make_skill_md, check_skill_md),
        Target("gguf", "GGUF headers", make_gguf, check_gguf),
        Target("config", "config.json of a Hugging Face folder", make_config, check_config),
        Target("server", "replies of model servers", make_server, check_server),
        Target("plan", "plan language", make_plan, check_plan),
        Target("text", "text language", make_text, check_text),
        Target("manifest", "manifest.json of an artifact", make_manifest, check_manifest),
        Target("card", "model card YAML", make_card, check_card),
    )
}
