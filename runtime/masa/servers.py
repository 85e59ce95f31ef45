"""A backbone behind a running server: Ollama, or OpenAI-compatible as vLLM, SGLang and llama.cpp are.

It talks to the address that it is given and to no other.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any
from urllib.parse import SplitResult, urlsplit

from masa.detect import build, from_metadata, positive
from masa.errors import CardError
from masa.files import parse_json
from masa.http_client import NoAnswerError, ask
from masa.model_names import Detected

_LONGEST = 8 << 20  # an Ollama answer carries licence and template, some 100 KB


def detect_server(spec: str, *, model: str | None, timeout: float, api_key: str | None = None) -> Detected:
    """Ask a server about one of its models.

    Args:
        spec: "http://host:port[/v1]#MODEL"; the model may also follow after a space, or come as `model`.
            It may be left out where the server has only one.
        timeout: seconds for all requests together.

    Raises:
        CardError: if the server does not answer, refuses, answers nonsense, or has no such model.
    """
    root, openai, model = _address(spec, model)
    client = _Client(root, timeout, api_key)
    if model and not openai:
        detected = _ask_ollama(client, model)
        if detected is not None:
            return detected
    entry, named = _choose(client, model)
    if entry.get("owned_by") == "library":  # Ollama; here it has only names, there it has everything
        detected = _ask_ollama(client, named)
        if detected is not None:
            return detected
    return _from_entry(entry, named)


def _address(spec: str, model: str | None) -> tuple[SplitResult, bool, str | None]:
    """Root of the server, whether the address ends in /v1, and the model."""
    address, _, behind = spec.strip().partition(" ")
    try:
        url = urlsplit(address)
        valid = bool(url.hostname) and (url.port is None or url.port > 0)
    except ValueError:
        valid = False
    if not valid:
        raise CardError(f"{address}: not a server's address; write it like http://localhost:11434#MODEL")
    if "@" in url.netloc:
        raise CardError("the server's address carries a user name or password; leave it out and give an API key")
    named = {name.strip() for name in (url.fragment, behind, model or "") if name.strip()}
    if len(named) > 1:
        raise CardError(f"{address}: more than one model is named ({', '.join(sorted(named))}); name one")
    path = url.path.rstrip("/")
    openai = path.endswith(("/v1", "/v1/models"))
    for ending in ("/v1/models", "/v1", "/api/show", "/api"):
        if path.endswith(ending):
            path = path.removesuffix(ending)
            break
    return url._replace(path=path, query="", fragment=""), openai, named.pop() if named else None


def _ask_ollama(client: _Client, model: str) -> Detected | None:
    """The answer of `/api/show`; None if this is no Ollama or it has no such model."""
    status, answer = client.request("/api/show", {"model": model}, probe=True)
    if status != 200 or not isinstance(answer, dict):
        return None
    metadata = answer.get("model_info")
    name = metadata.get("general.architecture") if isinstance(metadata, dict) else None
    # llama.cpp's server answers here too, for editors that look for Ollama, but with empty values.
    if not isinstance(metadata, dict) or not isinstance(name, str) or not name:
        return None
    parameters = positive(metadata.get("general.parameter_count"))
    details = answer.get("details")
    stated = details.get("parameter_size") if isinstance(details, dict) else None
    if parameters is None and "general.size_label" not in metadata and isinstance(stated, str):
        metadata = {**metadata, "general.size_label": stated}
    return from_metadata(metadata, name, "ollama", outer=(model,), parameters=parameters)


def _choose(client: _Client, model: str | None) -> tuple[Mapping[str, Any], str]:
    """The entry of `/v1/models` for the model, and its id."""
    status, answer = client.request("/v1/models")
    if status == 404:
        raise CardError(
            f"{client.where}: answers neither as Ollama (/api/show) nor as an OpenAI-compatible "
            "server (/v1/models); correct the address"
        )
    data = answer.get("data") if isinstance(answer, dict) else None
    if status != 200 or not isinstance(data, list):
        raise CardError(f"{client.where}/v1/models: answered with status {status} and no list of models{_said(answer)}")
    entries = {str(item["id"]): item for item in data if isinstance(item, dict) and item.get("id")}
    if not entries:
        raise CardError(f"{client.where}: the server has no model; load one first")
    listed = ", ".join(list(entries)[:20]) + (", …" if len(entries) > 20 else "")
    if model is None:
        if len(entries) == 1:
            (chosen,) = entries
            return entries[chosen], chosen
        raise CardError(
            f"{client.where}: name one of its models behind the address, as in {client.where}#MODEL: {listed}"
        )
    wanted = _plain_id(model)
    for identifier, entry in entries.items():
        if wanted == _plain_id(identifier):
            return entry, identifier
    raise CardError(f"{client.where}: has no model {model!r}; it has: {listed}")


def _from_entry(entry: Mapping[str, Any], identifier: str) -> Detected:
    """What an entry of `/v1/models` says: vLLM and SGLang tell the context, llama.cpp's `meta` the sizes."""
    meta = entry.get("meta")
    meta = meta if isinstance(meta, dict) else {}
    root = entry.get("root")
    outer = [identifier, *([root] if isinstance(root, str) and root and root != identifier else [])]
    parameters = positive(meta.get("n_params"))
    return build(
        "openai",
        [],
        outer,
        parameters,
        context_window=positive(entry.get("max_model_len")) or positive(meta.get("n_ctx_train")),
        hidden_size=positive(meta.get("n_embd")),
        vocab_size=positive(meta.get("n_vocab")),
    )


def _plain_id(identifier: str) -> str:
    """A model id without what servers add: the folder of a GGUF file, its ending, Ollama's ":latest"."""
    name = identifier.strip().lower().removesuffix(":latest")
    return name.replace("\\", "/").rsplit("/", 1)[-1].removesuffix(".gguf") if name.endswith(".gguf") else name


def _said(answer: Any) -> str:
    """The server's own words on an error, as " (…)"; llama.cpp, vLLM and Ollama each have their shape."""
    error = answer.get("error", answer.get("detail", answer.get("message"))) if isinstance(answer, dict) else None
    error = error.get("message") if isinstance(error, dict) else error
    return f" ({' '.join(error.split())[:200]})" if isinstance(error, str) and error.strip() else ""


class _Client:
    """JSON over HTTP with one deadline for all requests."""

    def __init__(self, root: SplitResult, timeout: float, api_key: str | None) -> None:
        self._key = api_key or None
        self._timeout = timeout
        self._deadline = time.monotonic() + timeout
        self.where = root.geturl()

    def request(self, path: str, body: Mapping[str, Any] | None = None, *, probe: bool = False) -> tuple[int, Any]:
        """Status and decoded JSON of a GET, or of a POST with a body; None instead of what is no JSON.

        A `probe` asks a server that may not know the path: whatever it answers is an answer.

        Raises:
            CardError: if there is no answer in time, a refusal, a redirect, or a success without JSON.
        """
        url = f"{self.where}{path}"
        try:
            answer = ask(url, body=body, key=self._key, deadline=self._deadline, longest=_LONGEST)
        except NoAnswerError as error:
            if error.late:
                problem = f"no answer within {self._timeout:g} s; is the server busy, or the address wrong?"
            elif error.long:
                problem = f"{error}; is this the model's server?"
            else:
                problem = f"no server answers ({error}); start it or correct the address"
            raise CardError(f"{url if error.long else self.where}: {problem}") from None
        if 300 <= answer.status < 400:
            target = answer.location or "elsewhere"
            raise CardError(f"{url}: redirects to {target}; give that address if you trust it")
        content = _decode(answer.data)
        if probe:
            return answer.status, content
        if answer.status in (401, 403):
            raise CardError(f"{url}: the server refuses (status {answer.status}); give an API key that it accepts")
        if answer.status >= 500:
            raise CardError(f"{url}: the server failed (status {answer.status}){_said(content)}; see its log")
        if content is None and answer.status == 200:
            start = answer.data[:60].decode("utf-8", errors="replace")
            raise CardError(f"{url}: the answer is not JSON ({start!r}); is this the model's server?")
        return answer.status, content


def _decode(data: bytes) -> Any:
    """JSON, or None where it is none."""

    try:
        return parse_json(data)
    except ValueError:
        return None
