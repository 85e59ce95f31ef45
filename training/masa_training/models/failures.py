"""What went wrong with a server, in one sentence, and whether asking again may help."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from masa_training.models.limits import retry_after
from masa_training.models.protocol import ModelError

if TYPE_CHECKING:
    from masa_training.models.openai import ServerOptions

_LONGEST = 300


@dataclass(frozen=True, slots=True)
class Failure:
    """A failed try.

    Attributes:
        status: of the HTTP answer, if there was one.
        after: seconds that the server asks to wait, if it does.
    """

    error: ModelError
    status: int | None = None
    after: float | None = None

    def given_up(self, tries: int, patience: float) -> ModelError:
        """The error to report when there is no further try."""
        message = str(self.error)
        if self.after is not None and self.after > patience:
            message += f" (it asks to wait {self.after:.0f} s, which is more than {patience:.0f})"
        elif tries > 1:
            message += f" (tried {tries} times)"
        return ModelError(message, retryable=self.error.retryable)


class NonsenseError(Exception):
    """A server's answer is no chat completion; the message says in half a sentence what it is."""


def failure_of(error: Exception, where: str, model: str, options: ServerOptions) -> Failure:
    """The failure that an exception of the client stands for. The API key appears nowhere in it."""
    import openai

    def told(message: str, retryable: bool, status: int | None = None, after: float | None = None) -> Failure:
        if options.api_key:
            message = message.replace(options.api_key, "***")
        return Failure(ModelError(f"{where}: {message}", retryable=retryable), status, after)

    if isinstance(error, openai.APITimeoutError):
        return told(f"no answer within {options.timeout:g} s; is the server busy, or the time limit too short?", True)
    if isinstance(error, openai.APIStatusError):
        return _status(error, model, told)
    if isinstance(error, openai.APIConnectionError):
        cause = error.__cause__
        name = type(cause).__name__
        if name in ("RemoteProtocolError", "ReadError", "DecodingError"):
            return told(f"the connection broke in the middle of the answer ({cause}); see the server's log", True)
        return told(f"no server answers ({cause or error}); start it or correct the address", True)
    if isinstance(error, NonsenseError):
        return told(f"{error}; is this an OpenAI-compatible server?", True)
    if isinstance(error, openai.APIResponseValidationError | ValueError | TypeError | AttributeError):
        return told("its answer is no JSON that a chat completion could be; is this an OpenAI-compatible server?", True)
    return told(f"the request failed ({type(error).__name__}: {_short(str(error))})", True)


def _status(error: Any, model: str, told: Any) -> Failure:
    status: int = error.status_code
    said = _said(error)
    failure: Failure
    if status in (401, 403):
        failure = told(f"the server refuses (status {status}){said}; give an API key that it accepts", False, status)
    elif status == 404:
        failure = told(
            f"has no chat completions of a model {model!r} (status 404){said}; correct the address, which usually ends "
            "in /v1, or the model's name",
            False,
            status,
        )
    elif status == 429:
        after = retry_after(error.response.headers.get("retry-after"))
        failure = told(f"too many requests (status 429){said}; lower the concurrency or set a limit", True, 429, after)
    elif status >= 500 or status in (408, 409, 425):
        after = retry_after(error.response.headers.get("retry-after"))
        failure = told(f"the server failed (status {status}){said}; see its log", True, status, after)
    elif 300 <= status < 400:
        target = error.response.headers.get("location", "elsewhere")
        failure = told(f"redirects to {target}; give that address if you trust it", False, status)
    else:
        failure = told(f"the server refuses the request (status {status}){said}; correct it", False, status)
    return failure


def _said(error: Any) -> str:
    """The server's own words, as " (…)"."""
    body = error.body
    if isinstance(body, dict):
        inner = body.get("error", body)
        found = inner.get("message", inner.get("detail")) if isinstance(inner, dict) else inner
        body = found
    return f" ({_short(body)})" if isinstance(body, str) and body.strip() else ""


def _short(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"
