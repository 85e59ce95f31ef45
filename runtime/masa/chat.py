"""Asking a backbone: a GGUF file in this process, or a server with the chat completions of OpenAI's API.

What a model thinks before it answers (`<think>…</think>`, or a field of its own) is not part of the answer. Answers are
kept in an `AnswerLog` as they come, so that no failure costs what was answered before.
"""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

from masa.errors import ArtifactError, BackendError, FormatError, MasaError
from masa.files import ParseError, parse_json
from masa.http_client import NoAnswerError, ask

Message = Mapping[str, str]
"""`role` and `content`."""

_LONGEST = 32 << 20
_TRIES, _PAUSE = 3, 2.0
_SERVER = re.compile(r"https?://", re.IGNORECASE)
_THOUGHT = re.compile(r"\A\s*<think(?:ing)?>.*?(?:</think(?:ing)?>|\Z)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer.

    Attributes:
        text: without what was thought before it.
        finished: whether the model stopped by itself; otherwise its tokens were used up.
        prompt_tokens, tokens: read and written; None where the server does not tell.
    """

    text: str
    finished: bool
    prompt_tokens: int | None
    tokens: int | None
    seconds: float


class Chat(Protocol):
    """A backbone that answers. `name` tells one from another in logs."""

    name: str

    def reply(self, messages: Sequence[Message], *, most_tokens: int, seed: int = 0, temperature: float = 0.0) -> Reply:
        """One answer.

        Raises:
            BackendError: if there is none.
        """

    def close(self) -> None:
        """Free the model. Closing twice is allowed."""


def open_chat(
    spec: str,
    *,
    model: str | None = None,
    api_key: str | None = None,
    timeout: float = 120.0,
    context: int = 4096,
    threads: int | None = None,
    gpu_layers: int = 0,
) -> Chat:
    """Open what a user names as a backbone: a GGUF file, weights by name, or a server as URL#MODEL.

    Args:
        timeout: seconds for one answer of a server.
        context, threads, gpu_layers: for a model in this process.

    Raises:
        MasaError: if it cannot be opened.
    """
    if _SERVER.match(spec):
        return ServerChat(spec, model=model, api_key=api_key, timeout=timeout)
    return LlamaChat(_weights(spec), context=context, threads=threads, gpu_layers=gpu_layers)


def check_chat(spec: str) -> None:
    """Refuse what `open_chat` would, as far as it shows without loading weights or asking a server.

    Raises:
        ArtifactError: if there is no such model, or what `spec` names cannot answer, as a model card.
    """
    if not _SERVER.match(spec):
        _weights(spec, verify=False)


def _weights(spec: str, *, verify: bool = True) -> Path:
    from masa.formats.gguf_header import is_gguf
    from masa.model_names import meant_server
    from masa.weights import find_weights

    path = find_weights(spec, verify=verify, or_else=f" or a server as {meant_server(spec) or 'URL#MODEL'}")
    if not is_gguf(path):
        raise ArtifactError(f"{path}: not a GGUF file; give one, or a server as URL#MODEL")
    return path


class LlamaChat:
    """A GGUF model through llama.cpp, with its own chat template; a model without one gets plain text."""

    def __init__(self, path: Path, *, context: int = 4096, threads: int | None = None, gpu_layers: int = 0) -> None:
        from masa.backends.llama_library import library, quiet
        from masa.cpu import usable_cores

        llama_cpp = library()
        self.name = path.name
        threads = threads or usable_cores()  # llama-cpp-python's own default writes with half of them
        try:
            with quiet(llama_cpp):
                self._llama: Any = llama_cpp.Llama(
                    str(path), n_ctx=context, n_threads=threads, n_threads_batch=threads, n_gpu_layers=gpu_layers,
                    n_batch=512, verbose=False,
                )  # fmt: skip
        except Exception as error:  # llama-cpp-python raises ValueError, AssertionError, RuntimeError
            raise BackendError(f"{path}: llama.cpp cannot load it as a model ({error})") from error
        self._templated = "tokenizer.chat_template" in self._llama.metadata

    def reply(self, messages: Sequence[Message], *, most_tokens: int, seed: int = 0, temperature: float = 0.0) -> Reply:
        if self._llama is None:
            raise BackendError(f"{self.name}: closed")
        options: dict[str, Any] = {"max_tokens": most_tokens, "seed": seed, "temperature": temperature}
        begun = time.perf_counter()
        try:
            if self._templated:
                answer = self._llama.create_chat_completion([dict(message) for message in messages], **options)
                text = answer["choices"][0]["message"]["content"] or ""
            else:
                prompt = "\n\n".join(message["content"] for message in messages) + "\n\nAnswer:"
                answer = self._llama.create_completion(prompt, **options)
                text = answer["choices"][0]["text"]
        except Exception as error:  # ValueError for a prompt beyond the context, RuntimeError from llama_decode
            raise BackendError(f"{self.name}: llama.cpp gives no answer ({error})") from error
        usage = answer["usage"]
        return Reply(
            answer_of(text),
            answer["choices"][0]["finish_reason"] != "length",
            usage["prompt_tokens"],
            usage["completion_tokens"],
            time.perf_counter() - begun,
        )

    def close(self) -> None:
        if self._llama is not None:
            self._llama.close()
        self._llama = None


class ServerChat:
    """A model behind an OpenAI-compatible server: llama.cpp, Ollama, LM Studio, vLLM and others.

    A request that fails for a reason that may pass (a late answer, a broken connection, a status of 429 or 5xx) is
    sent again, three times in all.
    """

    def __init__(self, spec: str, *, model: str | None = None, api_key: str | None = None, timeout: float) -> None:
        from masa.servers import find_model, listed_models, server_address

        root, _, named = server_address(spec, model)
        base = root.geturl().rstrip("/")
        self._where, self._key, self._timeout = base, api_key, timeout
        # An address such as https://host/v1beta/openai is the root of the API itself.
        self._url = f"{base}/chat/completions" if root.path.strip("/") else f"{base}/v1/chat/completions"
        if named is None:
            listed = self._models(f"{base}/models" if root.path.strip("/") else f"{base}/v1/models")
            entries = listed_models(listed) or {}
            if len(entries) != 1:
                told = ", ".join(list(entries)[:20]) or "none"
                raise BackendError(f"{base}: name one of its models behind the address, as in {base}#MODEL: {told}")
            named = next(iter(entries))
            named = find_model(named, entries) or named
        self.name = named

    def reply(self, messages: Sequence[Message], *, most_tokens: int, seed: int = 0, temperature: float = 0.0) -> Reply:
        body = {
            "model": self.name,
            "messages": [dict(message) for message in messages],
            "max_tokens": most_tokens,
            "temperature": temperature,
            "seed": seed,
        }
        for attempt in range(_TRIES):
            begun = time.monotonic()
            try:
                return self._read(self._post(body), time.monotonic() - begun)
            except _PassingError as error:
                if attempt == _TRIES - 1:
                    raise BackendError(f"{self._where}: {error} (tried {_TRIES} times)") from None
                time.sleep(_PAUSE * attempt)
        raise AssertionError

    def close(self) -> None:
        pass

    def _post(self, body: Mapping[str, Any]) -> Any:
        try:
            deadline = time.monotonic() + self._timeout
            answer = ask(self._url, body=body, key=self._key, deadline=deadline, longest=_LONGEST)
        except NoAnswerError as error:
            if error.unsent or error.long:
                raise BackendError(f"{self._where}: {error}") from None
            if error.late:
                raise _PassingError(f"no answer within {self._timeout:g} s; is the server busy?") from None
            raise _PassingError(f"no answer ({error}); is the server running, and the address right?") from None
        try:
            content = parse_json(answer.data)
        except ParseError:
            content = None
        if answer.status != 200:
            said = _said(content)
            if answer.status in (408, 409, 425, 429) or answer.status >= 500:
                raise _PassingError(f"the server failed (status {answer.status}){said}")
            what = {401: "refuses the key", 403: "refuses the key", 404: f"has no model {self.name!r} or no chat"}
            raise BackendError(
                f"{self._where}: {what.get(answer.status, 'refuses the request')} (status {answer.status}){said}"
            )
        return content

    def _read(self, content: Any, seconds: float) -> Reply:
        try:
            choice = content["choices"][0]
            text = choice["message"].get("content") or ""
            if not isinstance(text, str):  # parts, as some servers send them
                text = "".join(part.get("text", "") for part in text)
        except (TypeError, KeyError, IndexError, AttributeError):
            raise _PassingError("its answer is no chat completion, or only half of one") from None
        usage = content.get("usage") if isinstance(content.get("usage"), dict) else {}
        counts = [usage.get(key) if type(usage.get(key)) is int else None for key in _USAGE]
        return Reply(answer_of(text), choice.get("finish_reason") != "length", counts[0], counts[1], seconds)

    def _models(self, url: str) -> Any:
        try:
            answer = ask(url, key=self._key, deadline=time.monotonic() + self._timeout, longest=_LONGEST)
            return parse_json(answer.data)
        except NoAnswerError as error:
            raise BackendError(f"{self._where}: no server answers ({error}); start it or correct the address") from None
        except ParseError:
            raise BackendError(
                f"{self._where}: no OpenAI-compatible server answers there; correct the address"
            ) from None


_USAGE = ("prompt_tokens", "completion_tokens")


class _PassingError(Exception):
    """A failure that may pass; half a sentence."""


def answer_of(text: str) -> str:
    """What a model wrote without what it thought before; nothing if it never came to an end of that."""
    return _THOUGHT.sub("", text, count=1).strip()


def _said(content: Any) -> str:
    """The server's own words on an error, as ": …"."""
    inner = content.get("error", content) if isinstance(content, dict) else content
    text = inner.get("message", inner.get("detail")) if isinstance(inner, dict) else inner
    return f": {' '.join(text.split())[:200]}" if isinstance(text, str) and text.strip() else ""


class AnswerLog:
    """Replies in a file, one JSON object a line, by a key of the caller; each is on the disk before the next is asked.

    Args:
        settings: what the replies depend on; a file of other settings is refused.
        resume: continue with a file that is there; otherwise there must be none.

    Raises:
        MasaError: if the file is there and is not to be continued, is of other settings, or cannot be written.
    """

    def __init__(self, path: Path, settings: Mapping[str, Any], *, resume: bool) -> None:
        self.path = path
        self.replies: dict[str, Reply] = {}
        head = {"settings": json.loads(json.dumps(settings))}
        if path.exists():
            if not resume:
                raise MasaError(
                    f"{path}: answers of an earlier run; --resume continues with them, or name another folder"
                )
            self._load(head)
            self._open("a")
        else:
            from masa.files import make_folder

            make_folder(path.parent)
            self._open("x")
            self._write(head)

    def add(self, key: str, reply: Reply) -> None:
        """Keep a reply."""
        self.replies[key] = reply
        self._write({"key": key, **asdict(reply)})

    def close(self) -> None:
        self._stream.close()

    def _open(self, mode: str) -> None:
        try:
            self._stream = self.path.open(mode, encoding="utf-8", newline="\n")
        except OSError as error:
            raise MasaError(f"{self.path}: cannot be written ({error.strerror}); choose another folder") from None

    def _write(self, value: Mapping[str, Any]) -> None:
        try:
            self._stream.write(json.dumps(value) + "\n")
            self._stream.flush()
            os.fsync(self._stream.fileno())
        except OSError as error:
            raise MasaError(f"{self.path}: {error.strerror}; what was answered before is kept") from None

    def _load(self, head: Mapping[str, Any]) -> None:
        from masa.files import read_bytes

        lines = read_bytes(self.path).split(b"\n")
        whole, cut = lines[:-1], lines[-1]
        if cut:  # a line that a killed process did not finish
            os.truncate(self.path, sum(len(line) + 1 for line in whole))
        try:
            found = [parse_json(line) for line in whole]
            if not found or "settings" not in found[0]:
                raise ValueError
            if found[0] != head:
                before, now = found[0]["settings"], head["settings"]
                names = [name for name in {**before, **now} if before.get(name) != now.get(name)]
                raise MasaError(f"{self.path}: answers to other settings ({', '.join(names)}); name another folder")
            for line in found[1:]:
                key = line.pop("key")
                self.replies[key] = Reply(**line)
        except (ValueError, KeyError, TypeError, AttributeError):
            raise FormatError(f"{self.path}: no log of answers; remove it or name another folder") from None
