"""Selecting the few skills an agent should read now, and rendering them for its prompt."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol, get_args

from masa.errors import BackendError, MasaError, UnknownNameError
from masa.json_fields import did_you_mean
from masa.skills import Skill, SkillBank

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Method = Literal["task-type", "bm25", "embedding"]
METHODS: tuple[Method, ...] = get_args(Method)


class Embedder(Protocol):
    """What selection by embedding needs. `masa.embedders` has two."""

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """One row per text, in order: float32 of shape (len(texts), dimensions)."""
        ...


@dataclass(frozen=True, slots=True)
class Selection:
    """The selected skills, best first.

    Attributes:
        general: from the general skills.
        specific: from the skills of `task_type`.
        task_type: the one asked for or picked; None if the bank has none or none fits the query.
        picked: whether the task type was picked by the query instead of given.
        method: how the skills were ranked.
    """

    general: tuple[Skill, ...]
    specific: tuple[Skill, ...]
    task_type: str | None
    picked: bool = False
    method: Method = "task-type"


def select(
    bank: SkillBank,
    query: str = "",
    *,
    task_type: str | None = None,
    general: int = 6,
    specific: int = 5,
    method: Method | None = None,
    embedder: Embedder | None = None,
) -> Selection:
    """At most `general` general skills and `specific` skills of one task type.

    `method` is by default "embedding" where there is an embedder, else "bm25" where there is a query, else "task-type".

    "task-type" takes the first ones in bank order and needs no query. "bm25" ranks by BM25 (Robertson and
    Zaragoza, 2009; with the inverse document frequency that is never negative) and "embedding" by cosine
    similarity to `query`; equal scores keep bank order. Without a `task_type` the query picks the one whose
    skills (and description, for skill folders) match best, by BM25 for "task-type"; if no word matches, or
    there is no query, no task-specific skills are selected, unless the bank has a single task type.

    Opens no socket, unless the embedder does.

    Raises:
        MasaError: for an unknown method or task type, a method without the query or embedder it needs, a bank or query
            that is none, or a negative number.
    """
    if not isinstance(bank, SkillBank):
        raise MasaError(f"the bank must be a SkillBank, not a {type(bank).__name__}; load_bank reads one from a path")
    if not isinstance(query, str):
        raise MasaError(f"the query must be text, not a {type(query).__name__}; describe the task")
    if general < 0 or specific < 0:
        raise MasaError(f"general and specific must be at least 0, not {general} and {specific}")
    method = method or ("embedding" if embedder is not None else "bm25" if query.strip() else "task-type")
    if method not in METHODS:
        hint = did_you_mean(str(method), METHODS) or f"; there are: {', '.join(METHODS)}"
        raise UnknownNameError(f"no selection method {method!r}{hint}")
    if method != "task-type" and not query.strip():
        raise MasaError(f"selection by {method} needs a query; describe the task")
    if method == "embedding" and embedder is None:
        raise MasaError("selection by embedding needs an embedder; name a GGUF model or an embedding server")
    if task_type is not None and task_type not in bank.task_specific:
        known = tuple(bank.task_specific)
        hint = did_you_mean(str(task_type), known) or f"; it has: {', '.join(known) or 'none'}"
        raise UnknownNameError(f"no task type {task_type!r} in this bank{hint}")

    scorer = _Scorer(query, method, embedder)
    picked = task_type is None
    if task_type is None:
        task_type = _pick_task_type(bank, scorer)
    candidates = bank.task_specific[task_type] if task_type is not None else ()
    if method == "task-type":
        return Selection(bank.general[:general], candidates[:specific], task_type, picked and task_type is not None)
    # One corpus for both: a word's weight is then its rarity among everything the agent could be told.
    scores = scorer.scores([skill.text for skill in (*bank.general, *candidates)])
    return Selection(
        _best(bank.general, scores[: len(bank.general)], general),
        _best(candidates, scores[len(bank.general) :], specific),
        task_type,
        picked and task_type is not None,
        method,
    )


def render(selection: Selection, *, common_mistakes: Sequence[Mapping[str, Any]] = ()) -> str:
    """The selected skills as Markdown for an agent's prompt; empty if nothing was selected.

    `common_mistakes` are objects of a bank: description, why_it_happens, how_to_avoid, each optional.
    """
    blocks = []
    for heading, skills in (
        ("## General skills", selection.general),
        (f"## Skills for {selection.task_type}", selection.specific),
    ):
        if skills:
            blocks += [heading, *map(_render_skill, skills)]
    mistakes = [line for line in map(_render_mistake, common_mistakes) if line]
    if mistakes:
        blocks += ["## Common mistakes", "\n".join(mistakes)]
    return "\n\n".join(blocks) + "\n" if blocks else ""


def _render_skill(skill: Skill) -> str:
    when = f"When: {skill.when_to_apply}" if skill.when_to_apply else ""
    return "\n".join(part for part in (f"### {skill.title}", when, skill.principle) if part)


def _render_mistake(mistake: Mapping[str, Any]) -> str:
    parts = [
        f"{label}{' '.join(str(mistake[key]).split())}"
        for label, key in (("", "description"), ("Why: ", "why_it_happens"), ("Instead: ", "how_to_avoid"))
        if mistake.get(key)
    ]
    return f"- {' '.join(parts)}" if parts else ""


def _pick_task_type(bank: SkillBank, scorer: _Scorer) -> str | None:
    names = list(bank.task_specific)
    if len(names) <= 1:
        return names[0] if names else None
    if not scorer.query.strip():
        return None
    scores = scorer.scores([_group_text(name, bank.task_specific[name]) for name in names])
    best = max(range(len(names)), key=lambda i: (scores[i], -i))
    # BM25 gives 0 where no word matches; a cosine always says something.
    return names[best] if scores[best] > 0 or scorer.by_embedding else None


def _group_text(task_type: str, skills: Sequence[Skill]) -> str:
    described = next((skill.extra["skill_md"] for skill in skills if "skill_md" in skill.extra), None)
    description = described.get("description", "") if isinstance(described, Mapping) else ""
    words = task_type.replace("_", " ").replace("-", " ")
    return "\n".join([words, str(description), *(skill.text for skill in skills)])


def _best(skills: tuple[Skill, ...], scores: Sequence[float], k: int) -> tuple[Skill, ...]:
    order = sorted(range(len(skills)), key=lambda i: (-scores[i], i))
    return tuple(skills[i] for i in order[:k])


@dataclass(frozen=True, slots=True)
class _Scorer:
    """Scores texts against the query: the higher the better, comparable within one call."""

    query: str
    method: Method
    embedder: Embedder | None

    @property
    def by_embedding(self) -> bool:
        return self.method == "embedding" and self.embedder is not None

    def scores(self, texts: Sequence[str]) -> list[float]:
        if not texts:
            return []
        if self.method == "embedding" and self.embedder is not None:
            return _cosine(self.embedder, self.query, texts)
        return _bm25(self.query, texts)


def _bm25(query: str, texts: Sequence[str]) -> list[float]:
    import bm25s  # type: ignore[import-untyped]

    def words(strings: Sequence[str]) -> list[list[str]]:
        tokens = bm25s.tokenize(list(strings), stopwords="en", return_ids=False, show_progress=False)
        return [list(text) for text in tokens]

    corpus, (wanted,) = words(texts), words([query])
    vocabulary = {word for text in corpus for word in text}
    wanted = [word for word in wanted if word in vocabulary]
    if not wanted:
        return [0.0] * len(texts)
    index = bm25s.BM25(method="lucene", backend="numpy")
    index.index(corpus, show_progress=False)
    return [float(score) for score in index.get_scores(wanted)]


def _cosine(embedder: Embedder, query: str, texts: Sequence[str]) -> list[float]:
    import numpy as np

    vectors = np.asarray(embedder.embed([query, *texts]), dtype=np.float64)
    if vectors.ndim != 2 or len(vectors) != len(texts) + 1:
        raise BackendError(
            f"the embedder gave shape {vectors.shape} for {len(texts) + 1} texts; one row per text is needed"
        )
    if not np.isfinite(vectors).all():
        raise BackendError("the embedder gave numbers that are not finite; use another embedding model")
    lengths = np.linalg.norm(vectors, axis=1)
    lengths[lengths == 0] = 1.0
    unit = vectors / lengths[:, None]
    # Rounded, so that noise in the last digits does not reorder equal texts.
    return [round(float(score), 6) for score in unit[1:] @ unit[0]]
