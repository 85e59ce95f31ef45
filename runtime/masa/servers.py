"""A backbone behind a running server: Ollama, or OpenAI-compatible as vLLM, SGLang, llama.cpp and LM Studio are.

What a server says about itself wins over what is known of a model of that name. Requests go to the address that is
given and to no other.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any
from urllib.parse import SplitResult, unquote, urlsplit

from masa.cards import plain
from masa.detect import build, from_metadata, positive
from masa.errors import CardError
from masa.files import parse_json
from masa.http_client import NoAnswerError, ask
from masa.model_names import Detected, parse_size

_LONGEST = 8 << 20  # an Ollama answer carries licence and template, some 100 KB
_PROBE_SECONDS = 2.0
_ENDINGS = (
    *("/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/models", "/v1"),
    *("/api/show", "/api/tags", "/api/chat", "/api/generate", "/api/v0/models", "/api/v0", "/api"),
)
_ID_KEYS = ("id", "model_name", "model_id", "key", "name", "model")
# What servers call the window that they serve, the surest first: n_ctx llama.cpp, loaded_context_length LM Studio,
# max_model_len vLLM and SGLang, max_total_tokens TGI, num_ctx Ollama, context_length OpenRouter, Together and others,
# context_window Groq, max_input_tokens LiteLLM, input_token_limit Gemini; n_ctx_train is only what it was trained for.
_WINDOW_KEYS = (
    *("n_ctx", "loaded_context_length", "max_model_len", "max_total_tokens", "num_ctx", "context_length"),
    *("context_window", "max_context_length", "max_context", "max_context_tokens", "max_context_window_tokens"),
    *("context_size", "context_len", "max_sequence_length", "max_seq_len", "max_input_tokens", "input_token_limit"),
    *("max_input_length", "max_position_embeddings"),
)
_ANY_WINDOW = re.compile(r"(?:^|_)(?:context|ctx)(?:_|$)(?!.*(?:train|cost|price|used|cache|check))")
_COUNT_KEYS = ("n_params", "parameter_count", "num_parameters", "total_parameters", "params", "parameters")
_COUNT_LABELS = ("params_string", "parameter_size", "params", "parameters")
# Where servers tell more about their models than in /v1/models, by the owner that they name there.
_DETAILS = {"llamacpp": "/props", "sglang": "/get_model_info", "organization_owner": "/api/v0/models"}
_MORE_DETAILS = ("/props", "/api/v0/models", "/info", "/v1/model/info")
"""The same for a server that tells neither its owner nor its window: llama.cpp, LM Studio, TGI, LiteLLM."""


def detect_server(spec: str, *, model: str | None, timeout: float, api_key: str | None = None) -> Detected:
    """Ask a server about one of its models.

    Args:
        spec: "http://host:port[/v1]#MODEL", where all behind the # is the model; it may also follow after a space, or
            come as `model`. It may be left out where the server has only one.
        timeout: seconds for all requests together.

    Raises:
        CardError: if the server does not answer, refuses, answers nonsense, or has no such model.
    """
    root, openai, model = server_address(spec, model)
    client = _Client(root, timeout, api_key)
    if model and not openai:
        detected = _ask_ollama(client, model)
        if detected is not None:
            return detected
    entries = _list(client)
    named = _choose(client, entries, model)
    entry = entries[named]
    if isinstance(parent := entry.get("parent"), str) and parent.strip() and _plain_id(parent) != _plain_id(named):
        return _adapter(entry, named, parent, entries)
    window, owner = _window(dict(_flat(entry))), str(entry.get("owned_by"))
    if window is None and owner not in _DETAILS:
        # An Ollama keeps all that it knows elsewhere, whoever is said to own the model.
        detected = _ask_ollama(client, named)
        if detected is not None:
            return detected
    paths = (_DETAILS[owner],) if owner in _DETAILS else _MORE_DETAILS if window is None else ()
    return _from_entry(entry, named, _details(client, named, paths))


def server_tokenizer(
    spec: str, *, model: str | None, timeout: float, api_key: str | None = None
) -> Callable[[str], int] | None:
    """What counts the tokens of a text at a server with `/tokenize` (llama.cpp, vLLM); None where there is none.

    Every count has `timeout` seconds of its own. It raises CardError where the server fails later.

    Raises:
        CardError: if the address is none, or nothing answers there.
    """
    root, _, model = server_address(spec, model)
    first = _Client(root, timeout, api_key)
    # llama.cpp reads `content`, vLLM `prompt` and `model`; each ignores what it does not know.
    named = {"model": model} if model else {}

    def count(client: _Client, text: str) -> int | None:
        body = {"content": text, "prompt": text, "add_special": False, "add_special_tokens": False, **named}
        status, answer = client.request("/tokenize", body, probe=True)
        tokens = answer.get("tokens") if status == 200 and isinstance(answer, dict) else None
        return len(tokens) if isinstance(tokens, list) else None

    def later(text: str) -> int:
        found = count(_Client(root, timeout, api_key), text)
        if found is None:
            raise CardError(f"{root.geturl()}/tokenize: no longer answers with tokens; see the server's log")
        return found

    return later if count(first, "one two three") else None


def server_address(spec: str, model: str | None) -> tuple[SplitResult, bool, str | None]:
    """Root of the server, whether the address is that of an OpenAI-compatible one, and the model."""
    spec = spec.strip()
    address, _, behind = spec.partition("#") if "#" in spec else spec.partition(" ")
    address = address.strip()
    try:
        url = urlsplit(address)
        valid = bool(url.hostname) and (url.port is None or url.port > 0) and not re.search(r"\s", address)
    except ValueError:
        valid = False
    if not valid:
        raise CardError(f"{address}: not a server's address; write it like http://localhost:11434#MODEL")
    if "@" in url.netloc:
        raise CardError("the server's address carries a user name or password; leave it out and give an API key")
    named = {name for name in (unquote(behind).strip(), (model or "").strip()) if name}
    if len(named) > 1:
        raise CardError(f"{address}: more than one model is named ({', '.join(sorted(named))}); name one")
    path = url.path.rstrip("/")
    ending = next((ending for ending in _ENDINGS if path.endswith(ending)), "")
    root = url._replace(path=path.removesuffix(ending), query="", fragment="")
    return root, ending.startswith("/v1"), named.pop() if named else None


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
    settings = answer.get("parameters")
    window = re.search(r"^num_ctx\s+(\d{1,9})\s*$", settings, re.MULTILINE) if isinstance(settings, str) else None
    if window:
        metadata = {**metadata, f"{name}.context_length": int(window[1])}
    return from_metadata(metadata, name, "ollama", outer=(model,), parameters=parameters)


def _list(client: _Client) -> dict[str, Mapping[str, Any]]:
    """The models of a server by their ids."""
    path = "/v1/models"
    status, answer = client.request(path)
    if status == 404 and client.prefixed:  # an address such as https://host/v1beta/openai is the root of the API itself
        path = "/models"
        status, answer = client.request(path)
    if status == 404:
        _, told = client.request("/info", probe=True)  # TGI, before it had a list
        if isinstance(told, dict) and isinstance(told.get("model_id"), str):
            return {told["model_id"]: told}
        raise CardError(
            f"{client.where}: answers neither as Ollama (/api/show) nor as an OpenAI-compatible "
            "server (/v1/models); correct the address"
        )
    entries = listed_models(answer) if status == 200 else None
    if entries is None:
        raise CardError(f"{client.where}{path}: answered with status {status} and no list of models{_said(answer)}")
    if not entries:
        raise CardError(f"{client.where}: the server has no model; load one first")
    return entries


def listed_models(answer: Any) -> dict[str, Mapping[str, Any]] | None:
    """The models in the answer of `/v1/models` by their ids, in whatever form a server lists them; None if it is none.

    A list, or one under `data` or `models`, of objects or of names; null is an empty one.
    """
    content = answer
    for _ in range(2):
        keys = [key for key in ("data", "models") if key in content] if isinstance(content, dict) else []
        if keys:
            content = next((content[key] for key in keys if content[key]), [])
        elif content is answer and isinstance(answer, dict):
            return None
    if content == []:
        return {}
    if isinstance(content, dict):  # id: what is known of it
        content = [{"id": key, **value} for key, value in content.items() if isinstance(value, dict)]
    if not isinstance(content, list):
        return None
    entries: dict[str, Mapping[str, Any]] = {}
    for item in content:
        if isinstance(item, str) and item.strip():
            entries.setdefault(item, {})
        elif isinstance(item, dict):
            names = (str(item[key]) for key in _ID_KEYS if isinstance(item.get(key), (str, int)))
            named = next((name for name in names if name.strip()), None)
            if named is not None:
                entries.setdefault(named, item)
    return entries or None


def _choose(client: _Client, entries: Mapping[str, Any], model: str | None) -> str:
    """The id of the model that is meant."""
    listed = ", ".join(plain(name) or repr(name) for name in list(entries)[:20]) + (", …" if len(entries) > 20 else "")
    if model is None:
        if len(entries) == 1:
            return next(iter(entries))
        raise CardError(
            f"{client.where}: name one of its models behind the address, as in {client.where}#MODEL: {listed}"
        )
    found = find_model(model, entries)
    if found is None:
        raise CardError(f"{client.where}: has no model {model!r}; it has: {listed}")
    return found


def find_model(model: str, entries: Mapping[str, Any]) -> str | None:
    """The id that stands for `model`, else the only one that does so without the organization in front."""
    wanted = _plain_id(model)
    for identifier in entries:
        if wanted == _plain_id(identifier):
            return identifier
    found = [identifier for identifier in entries if wanted == _plain_id(identifier).rsplit("/", 1)[-1]]
    return found[0] if len(found) == 1 else None


def _adapter(entry: Mapping[str, Any], named: str, parent: str, entries: Mapping[str, Mapping[str, Any]]) -> Detected:
    """A LoRA adapter, which vLLM and SGLang list with the model that it belongs to."""
    base = find_model(parent, entries)
    below = entries[base] if base is not None else {}
    root = below.get("root")
    told = dict(_flat(entry))
    for key, values in _flat(below):
        told.setdefault(key, []).extend(values)
    names = [parent, *([root] if isinstance(root, str) and root.strip() and root != parent else [])]
    return build("openai", [], names, _count(told), adapter=plain(named) or repr(named), **_architecture(told))


def _from_entry(entry: Mapping[str, Any], identifier: str, more: Mapping[str, list[Any]]) -> Detected:
    """What an entry of the list says, and `more` that was found elsewhere."""
    told = {**dict(_flat(entry)), **more}
    others = [entry.get("root"), entry.get("hugging_face_id"), *more.get("model_path", ())]  # behind an alias
    outer = dict.fromkeys([identifier, *(name for name in others if isinstance(name, str) and name.strip())])
    return build("openai", [], tuple(outer), _count(told), **_architecture(told))


def _architecture(told: Mapping[str, list[Any]]) -> dict[str, Any]:
    def number(*keys: str) -> int | None:
        return next((found for key in keys for value in told.get(key, ()) if (found := positive(value))), None)

    return {
        "context_window": _window(told) or number("n_ctx_train"),
        "num_layers": number("n_layer", "num_hidden_layers", "block_count"),
        "hidden_size": number("n_embd", "hidden_size", "embedding_length"),
        "vocab_size": number("n_vocab", "vocab_size"),
    }


def _window(told: Mapping[str, list[Any]]) -> int | None:
    """The tokens that the model is served with, under whatever key; of several under one key the fewest."""
    others = [key for key in told if key not in _WINDOW_KEYS and _ANY_WINDOW.search(key)]
    for keys in (*((key,) for key in _WINDOW_KEYS), others):
        sizes = [size for key in keys for value in told.get(key, ()) if (size := _whole(value)) and size >= 16]
        if sizes:
            return min(sizes)
    return None


def _whole(value: Any) -> int | None:
    return positive(int(value) if isinstance(value, str) and re.fullmatch(r"\d{1,9}", value) else value)


def _count(told: Mapping[str, list[Any]]) -> int | None:
    """The number of parameters, exact or as a label such as "7.6B"."""
    for key in _COUNT_KEYS:
        for value in told.get(key, ()):
            if (count := _whole(value)) and count >= 1000:
                return count
    labels = [value for key in _COUNT_LABELS for value in told.get(key, ()) if isinstance(value, str)]
    return next((round(size) for label in labels if (size := parse_size(label.replace(" ", "")))), None)


def _details(client: _Client, named: str, paths: Iterable[str]) -> dict[str, list[Any]]:
    """What a server tells elsewhere about this model: its window, or the path that it was loaded from."""
    for path in paths:
        status, answer = client.request(path, probe=True)
        if status != 200 or not isinstance(answer, dict):
            continue
        entries = listed_models(answer)
        if entries is not None:
            found = find_model(named, entries)
            answer = entries[found] if found is not None else {}
        told = dict(_flat(answer))
        if _window(told) or "model_path" in told:
            return told
    return {}


def _flat(content: Any) -> Iterator[tuple[str, list[Any]]]:
    """Every key of nested objects, in snake case, with all values that it has."""
    values: dict[str, list[Any]] = {}

    def walk(part: Any, depth: int) -> None:
        if depth > 4:
            return
        if isinstance(part, list):
            for item in part[:20]:
                walk(item, depth + 1)
        elif isinstance(part, dict):
            for key, value in part.items():
                if isinstance(value, (dict, list)):
                    walk(value, depth + 1)
                else:
                    name = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", key).lower().replace("-", "_")
                    values.setdefault(name, []).append(value)

    walk(content, 0)
    yield from values.items()


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
        self._answered = False
        self.where = root.geturl()
        self.prefixed = bool(root.path)

    def request(self, path: str, body: Mapping[str, Any] | None = None, *, probe: bool = False) -> tuple[int, Any]:
        """Status and decoded JSON of a GET, or of a POST with a body; None instead of what is no JSON.

        A `probe` asks a server that may not know the path: whatever it answers is an answer. Once the server has
        answered, a probe that fails is no answer, either: (0, None).

        Raises:
            CardError: if there is no answer in time, a refusal, a redirect, or a success without JSON.
        """
        url = f"{self.where}{path}"
        soft = probe and self._answered
        deadline = min(self._deadline, time.monotonic() + _PROBE_SECONDS) if soft else self._deadline
        try:
            answer = ask(url, body=body, key=self._key, deadline=deadline, longest=_LONGEST)
        except NoAnswerError as error:
            if soft:
                return 0, None
            if error.late:
                problem = f"no answer within {self._timeout:g} s; is the server busy, or the address wrong?"
            elif error.long:
                problem = f"{error}; is this the model's server?"
            elif error.unsent:
                problem = f"cannot be asked: {error}; correct it"
            else:
                problem = f"no server answers ({error}); start it or correct the address"
            raise CardError(f"{url if error.long else self.where}: {problem}") from None
        self._answered = True
        if 300 <= answer.status < 400 and not soft:
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
