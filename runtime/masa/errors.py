"""The errors a user can cause or must hear about: each says what was found, where, and what to do."""

from __future__ import annotations

from collections.abc import Iterable


class MasaError(Exception):
    """Base of every error that masa raises on purpose. The CLI prints it as one sentence, exit code 1.

    What it quotes of other people's files may hold anything: what a terminal would obey, or cannot show, is escaped.
    """

    def __init__(self, message: object = "") -> None:
        super().__init__("\n".join(map(one_line, str(message).split("\n"))))


def one_line(text: str) -> str:
    """`text` with line ends and all else escaped that a terminal would obey or cannot show."""
    return text if text.isprintable() else "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def near_misses(word: str, known: Iterable[str], most: int = 1) -> list[str]:
    """The known words that `word` may have been meant to be, the likeliest first, at most so many."""
    import difflib

    return difflib.get_close_matches(word, list(known), n=most)


class FormatError(MasaError):
    """A file is not what it was said to be: no bank, broken front matter, not UTF-8, a wrong manifest."""


class CardError(MasaError):
    """A model card has an unknown key or a value of the wrong type, or no card could be found."""


class ArtifactError(MasaError):
    """A rewriter artifact is incomplete, damaged, or of a format this masa does not read."""


class BackendError(MasaError):
    """The inference library is missing, refuses a model, or a prompt does not fit the context."""


class UnknownNameError(MasaError, KeyError):
    """What was asked for by its name is not there; the sentence tells the nearest one."""

    def __str__(self) -> str:
        return str(self.args[0])


class MissingExtraError(MasaError):
    """A feature needs an extra that is not installed."""

    def __init__(self, feature: str, extra: str) -> None:
        from masa.extras import pip_install

        super().__init__(f'{feature} needs the extra "{extra}": {pip_install(extra)}')
        self.feature = feature
        self.extra = extra
