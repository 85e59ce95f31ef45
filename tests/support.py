"""A backend without a model, for tests of everything around one.

Its vocabulary is the 256 bytes and two control tokens. What it "generates" is a script, a function from
(prompt text, output bytes so far) to the next byte, or seeded noise, so that a test decides what a rewriter writes.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from masa.artifact import Artifact, load_artifact
from masa.backends import Feed
from masa.errors import BackendError, MasaError
from masa.prompt import Segment

START, STOP = 256, 257
VOCABULARY = 258
_CONTROLS = {"<|im_start|>": START, "<|im_end|>": STOP}

Script = Callable[[str], str]
"""From the prompt, control tokens left out, to what the model wants to write; it stops at the end."""


class _Bytes:
    eos_token_id = STOP
    bos_token_id = None
    tokens = (*(bytes([i]) for i in range(256)), b"<|im_start|>", b"<|im_end|>")
    special_token_ids = (START, STOP)

    def __call__(self, text: bytes | str) -> list[int]:
        return list(text.encode() if isinstance(text, str) else text)


@functools.cache
def byte_tokenizer() -> Any:
    """llguidance's view of the byte vocabulary."""
    from llguidance import LLTokenizer, TokenizerWrapper

    return LLTokenizer(TokenizerWrapper(_Bytes()), n_vocab=VOCABULARY)


class ScriptedBackend:
    """Writes what `script` says; where the script has nothing more to say it asks for the stop token."""

    vocabulary = VOCABULARY

    def __init__(self, script: Script, *, context_length: int = 100_000, noise: float = 0.0) -> None:
        self.script = script
        self.context_length = context_length
        self.noise = noise
        self.closed = False
        self.adapter: str | None = None
        self.sessions: list[ScriptedSession] = []

    def tokenize(self, segments: Sequence[Segment]) -> list[int]:
        tokens: list[int] = []
        for segment in segments:
            tokens += [_CONTROLS[segment.text]] if segment.control else segment.text.encode()
        return tokens

    def detokenize(self, tokens: Sequence[int]) -> bytes:
        return bytes(token for token in tokens if token < 256)

    def token_id(self, text: str) -> int | None:
        return _CONTROLS.get(text)

    def control_tokens(self) -> tuple[str, ...]:
        return tuple(_CONTROLS)

    def grammar_tokenizer(self) -> Any:
        return byte_tokenizer()

    def side_by_side(self, *, slots: int, length: int) -> list[ScriptedSession]:
        return [self.session(slots=slots, length=length)]

    def session(self, *, slots: int, length: int) -> ScriptedSession:
        if self.closed:
            raise BackendError("closed")
        self.sessions.append(ScriptedSession(self, slots, length))
        return self.sessions[-1]

    def set_adapter(self, path: str | None, *, scale: float = 1.0) -> None:
        self.adapter = path

    def close(self) -> None:
        self.closed = True


class ScriptedSession:
    """Keeps every sequence as a list, and fails a test that breaks the protocol."""

    def __init__(self, backend: ScriptedBackend, slots: int, length: int) -> None:
        self.backend, self.slots, self.length = backend, slots, length
        self.prefix: list[int] = []
        self.sequences: dict[int, list[int]] = {}
        self.begun: dict[int, int] = {}
        self.steps = 0
        self.widest = 0
        self.closed = False

    def share(self, tokens: Sequence[int]) -> None:
        assert not self.sequences, "the prefix must be shared before sequences begin"
        self.prefix = list(tokens)

    def begin(self, slot: int, tokens: Sequence[int]) -> np.ndarray:
        assert 0 <= slot < self.slots and slot not in self.sequences and len(tokens) > 0
        self.sequences[slot] = [*self.prefix, *tokens]
        self.begun[slot] = len(self.sequences[slot])
        return self._logits(slot, len(self.sequences[slot]))

    def step(self, feeds: Sequence[Feed], wanted: Sequence[int]) -> list[np.ndarray]:
        self.steps += 1
        self.widest = max(self.widest, len(feeds))
        rows = []
        for (slot, tokens), count in zip(feeds, wanted, strict=True):
            assert len(tokens) >= count >= 1
            self.sequences[slot] += tokens
            end = len(self.sequences[slot])
            assert end <= self.length, "longer than the session was opened for"
            rows.append(np.stack([self._logits(slot, end - count + 1 + i) for i in range(count)]))
        return rows

    def rewind(self, slot: int, tokens: int) -> None:
        assert tokens > 0
        del self.sequences[slot][-tokens:]

    def release(self, slot: int) -> None:
        del self.sequences[slot], self.begun[slot]

    def close(self) -> None:
        self.closed = True

    def _logits(self, slot: int, end: int) -> np.ndarray:
        tokens = self.sequences[slot][:end]
        start = self.begun[slot]
        prompt = bytes(t for t in tokens[:start] if t < 256).decode()
        wish = self.backend.script(prompt).encode()
        done = len(tokens) - start
        logits = np.zeros(VOCABULARY, np.float32)
        if self.backend.noise:
            seed = hashlib.sha256(repr(tokens).encode()).digest()
            generator = np.random.default_rng(int.from_bytes(seed[:8], "big"))
            logits += generator.normal(0, self.backend.noise, VOCABULARY).astype(np.float32)
        logits[wish[done] if done < len(wish) else STOP] += 10
        return logits


def unopened_artifact(parent: Path, *, language: str = "plan") -> Artifact:
    """An artifact whose weights are never opened."""
    folder = parent / f"tiny-{language}"
    folder.mkdir()
    (folder / "w.gguf").write_bytes(b"GGUF")
    template = {
        "before_system": [["<|im_start|>", True], ["system\n", False]],
        "before_user": [["<|im_end|>", True], ["user\n", False]],
        "before_assistant": [["<|im_end|>", True], ["assistant\n", False]],
        "stop": ["<|im_end|>"],
    }
    sha = "6c8b81b5b8e0ae7ea3a0bb1d4b2f6e8a" * 2
    manifest = {
        "format": 1,
        "name": "tiny",
        "version": "1",
        "kind": "gguf",
        "language": language,
        "prompt_version": 1,
        "base_model": "none",
        "weights": "w.gguf",
        "adapter": None,
        "chat_template": template,
        "context_length": 60_000,
        "quantization": None,
        "training_data": {"summary": "none", "trained": False},
        "licence": "Apache-2.0",
        "files": {"w.gguf": {"sha256": sha, "bytes": 4}},
        "packaged": {},
    }
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return load_artifact(folder, verify=False)


def in_child(work: Callable[[], object], *, owner_of: Path | None = None) -> int:
    """The status of a process of its own that did `work`: 0, 1 if it raised a MasaError, -9 if it was killed.

    Root may read and write everything. With `owner_of`, `work` is done by a user who owns that folder and all below.
    """
    nobody = 65534
    other = owner_of is not None and os.geteuid() == 0
    if owner_of is not None and other:
        for path in (owner_of, *owner_of.rglob("*")):
            os.chown(path, nobody, nobody, follow_symlinks=False)
    child = os.fork()
    if not child:
        try:
            if other:
                os.setgid(nobody)
                os.setuid(nobody)
            work()
            os._exit(0)
        except MasaError:
            os._exit(1)
        except BaseException:
            os._exit(3)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
