"""Uploading a package to the Hugging Face Hub, in one commit: the counterpart of `masa pull hf:OWNER/NAME`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from masa.errors import MissingExtraError
from masa.http_client import unproxied
from masa.pull import hub_endpoint
from masa_export.errors import ExportError
from masa_export.publish.folder import Package
from masa_export.publish.model_card import is_hub_id

_MEANINGS = {
    400: "it does not accept what was sent",
    401: "it does not know the token, or the repository is not yours; make a token that may write",
    403: "the token may not write there; make one that may, or give another OWNER",
    404: "there is no such owner or repository; check the name",
    409: "another upload is going on; try again",
    413: "it is too large for the Hub",
    429: "too many requests; try again later",
}


@dataclass(frozen=True, slots=True)
class Hub:
    """A repository that may be written to: where, and with what token."""

    endpoint: str
    repository: str
    token: str

    @property
    def url(self) -> str:
        return f"{self.endpoint}/{self.repository}"


def find_hub(repository: str) -> Hub:
    """The Hub, asked for nothing yet: so that what is missing is told before anything is written.

    Raises:
        MasaError: if huggingface_hub is not installed, `repository` is no OWNER/NAME, or no token is there.
    """
    if not is_hub_id(repository):
        raise ExportError(f"--push {repository}: not a repository of the Hub; write OWNER/NAME")
    endpoint = hub_endpoint()
    try:
        from huggingface_hub import get_token
    except ImportError:
        raise MissingExtraError("--push", "export") from None
    token = get_token()
    if not token:
        raise ExportError(
            "--push needs a token of the Hugging Face Hub that may write; give it in the variable HF_TOKEN, or run: "
            "hf auth login"
        )
    return Hub(endpoint, repository, token)


def push(package: Package, hub: Hub, *, private: bool = False, bars: bool = False) -> str:
    """Upload what `package` names, in one commit, and return the commit's address.

    The repository is made where there is none, `private` or not; what else is in it stays. `bars` lets huggingface_hub
    draw its progress.

    Raises:
        ExportError: in one sentence, if the Hub refuses or cannot be reached; the repository is then as before, or
            new and empty.
    """
    from huggingface_hub import CommitOperationAdd, HfApi

    names = sorted({*package.texts, *package.files})
    with _told(hub, package), _silent(bars), unproxied(hub.endpoint):
        api = HfApi(endpoint=hub.endpoint, token=hub.token)
        api.create_repo(hub.repository, private=private or None, exist_ok=True)
        commit = api.create_commit(
            hub.repository,
            [CommitOperationAdd(name, str(package.folder.joinpath(*name.split("/")))) for name in names],
            commit_message=f"{package.artifact.name} {package.artifact.version}",
        )
    return str(commit.commit_url)


@contextmanager
def _told(hub: Hub, package: Package) -> Iterator[None]:
    """Turn what the library raises, which shares no base class, into one sentence."""
    try:
        yield
    except Exception as error:
        host = urlsplit(hub.endpoint).netloc
        raise ExportError(
            f"--push {hub.repository}: {_why(error, host)}; {package.folder} is complete, so the same command goes on "
            "from there"
        ) from error


def _why(error: BaseException, host: str) -> str:
    """The cause at the end of the chain: what the Hub answered, or why it could not be asked."""
    status, detail = None, ""
    cause: BaseException | None = error
    while cause is not None:
        response: Any = getattr(cause, "response", None)
        if status is None and getattr(response, "status_code", None):
            status = int(response.status_code)
            detail = str(getattr(cause, "server_message", None) or "").strip()
        if type(cause).__name__ in ("ConnectionError", "ConnectError", "ConnectTimeout", "ReadTimeout", "Timeout"):
            return f"{host} cannot be reached; check the network"
        error, cause = cause, cause.__cause__
    if status is None:
        return f"the upload failed ({_line(error)})"
    meaning = _MEANINGS.get(status, "it failed; try again later" if status >= 500 else "it refuses")
    return f"{host} answers {status}: {meaning}" + (f" ({_line(detail)})" if detail else "")


def _line(what: object) -> str:
    return " ".join(str(what).split())[:200] or type(what).__name__


@contextmanager
def _silent(bars: bool) -> Iterator[None]:
    """huggingface_hub without its bars and warnings."""
    import warnings
    from importlib import import_module

    utils: Any = import_module("huggingface_hub.utils")  # typed in part
    level, drawn = utils.logging.get_verbosity(), not utils.are_progress_bars_disabled()
    utils.logging.set_verbosity_error()
    if not bars:
        utils.disable_progress_bars()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        utils.logging.set_verbosity(level)
        if drawn and not bars:
            utils.enable_progress_bars()
