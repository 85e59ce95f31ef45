"""`masa check`: does a skill help its reader, and does the adapted one help more? Pairs on the user's own prompts.

Every prompt is answered without the skill, with the original and with the adapted one, with the same seed. The verdict
compares adapted and original: pairs of which only one is right are counted, and the exact test of McNemar (1947)
decides at 5 %; the interval of the difference is that of Agresti and Min (2005). It speaks of these prompts, and the
number of runs has to be fixed before one looks.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from masa.chat import AnswerLog, Chat, Message, Reply
from masa.errors import MasaError
from masa.evals import Eval, Judge, passed

Arm = Literal["none", "original", "adapted"]
ARMS: tuple[Arm, ...] = ("none", "original", "adapted")
Verdict = Literal["better", "worse", "undecided", "the same text"]
_ALPHA = 0.05
_MOST_MORE = 2000


@dataclass(frozen=True, slots=True)
class Budget:
    """Most calls, tokens read and written, and seconds; None for no bound. A call that has begun is finished."""

    calls: int | None = None
    tokens: int | None = None
    seconds: float | None = None

    def spent(self, calls: int, tokens: int, seconds: float) -> str:
        """Which bound is reached; empty if none."""
        for name, bound, value in (
            ("calls", self.calls, calls), ("tokens", self.tokens, tokens), ("seconds", self.seconds, seconds),
        ):  # fmt: skip
            if bound is not None and value >= bound:
                return f"the budget of {bound:g} {name} is spent"
        return ""


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two arms on the same prompts and seeds.

    Attributes:
        pairs: answers that both arms have.
        gained, lost: pairs that only the first arm has right, and only the second.
    """

    pairs: int
    gained: int
    lost: int

    @property
    def difference(self) -> float | None:
        return (self.gained - self.lost) / self.pairs if self.pairs else None

    @property
    def interval(self) -> tuple[float, float]:
        """Of the difference of the rates, at 95 %."""
        n, b, c = self.pairs + 2, self.gained + 0.5, self.lost + 0.5
        middle, half = (b - c) / n, 1.96 * math.sqrt(b + c - (b - c) ** 2 / n) / n
        return max(-1.0, middle - half), min(1.0, middle + half)

    @property
    def verdict(self) -> Verdict:
        if _exact(self.gained, self.lost) > _ALPHA:
            return "undecided"
        return "better" if self.gained > self.lost else "worse"

    @property
    def more(self) -> int | None:
        """About how many further pairs would decide, at what was seen; None where that cannot be told."""
        if self.verdict != "undecided" or self.gained == self.lost or not self.pairs:
            return None
        for pairs in range(self.pairs + 1, self.pairs + _MOST_MORE):
            share = pairs / self.pairs
            if _exact(round(self.gained * share), round(self.lost * share)) <= _ALPHA:
                return pairs - self.pairs
        return None


def _exact(gained: int, lost: int) -> float:
    """Two-sided p of the exact test of McNemar."""
    n = gained + lost
    if n == 0:
        return 1.0
    tail = float(sum(math.comb(n, k) for k in range(max(gained, lost), n + 1)) / 2**n)
    return min(1.0, 2 * tail)


@dataclass(frozen=True, slots=True)
class Answered:
    """An answer of an arm and which of its checks it met."""

    arm: Arm
    key: str
    run: int
    reply: Reply
    checks: tuple[bool, ...]

    @property
    def right(self) -> bool:
        return all(self.checks)


@dataclass(frozen=True, slots=True)
class CheckResult:
    """What a check came to.

    Attributes:
        answers: in the order in which they were asked.
        same: whether original and adapted are the same text, so that nothing had to be asked of the latter.
        stopped: why it ended before all was asked; empty if it did not.
    """

    answers: tuple[Answered, ...]
    runs: int
    same: bool = False
    stopped: str = ""

    def arm(self, arm: Arm) -> tuple[Answered, ...]:
        return tuple(one for one in self.answers if one.arm == arm)

    def compare(self, first: Arm, second: Arm) -> Comparison:
        """The pairs of two arms."""
        others = {(one.key, one.run): one.right for one in self.arm(second)}
        pairs = [(o.right, others[o.key, o.run]) for o in self.arm(first) if (o.key, o.run) in others]
        return Comparison(len(pairs), sum(a and not b for a, b in pairs), sum(b and not a for a, b in pairs))

    @property
    def verdict(self) -> Verdict:
        """Of the adapted skill against the original."""
        return "the same text" if self.same else self.compare("adapted", "original").verdict

    @property
    def best(self) -> Arm:
        """Adapted where it is better, else the original."""
        return "adapted" if self.verdict == "better" else "original"

    def tokens(self, arm: Arm) -> tuple[float, float] | None:
        """Mean tokens read and written for an answer; None where a server does not tell."""
        replies = [one.reply for one in self.arm(arm)]
        if not replies or any(reply.prompt_tokens is None or reply.tokens is None for reply in replies):
            return None
        n = len(replies)
        return sum(r.prompt_tokens or 0 for r in replies) / n, sum(r.tokens or 0 for r in replies) / n

    @property
    def saved(self) -> float | None:
        """Tokens that the adapted skill saves in every prompt, read and written; negative where it costs more."""
        before, after = self.tokens("original"), self.tokens("adapted")
        return None if before is None or after is None else sum(before) - sum(after)

    def to_json(self) -> dict[str, Any]:
        both = self.compare("adapted", "original")
        return {
            "verdict": self.verdict,
            "best": self.best,
            "adapted_against_original": _told(both),
            "original_against_none": _told(self.compare("original", "none")),
            "arms": {
                arm: {
                    "right": sum(one.right for one in self.arm(arm)),
                    "asked": len(self.arm(arm)),
                    "checks_met": sum(sum(one.checks) for one in self.arm(arm)),
                    "checks": sum(len(one.checks) for one in self.arm(arm)),
                    "cut": sum(not one.reply.finished for one in self.arm(arm)),
                    "tokens": self.tokens(arm),
                }
                for arm in ARMS
            },
            "tokens_saved": self.saved,
            "runs": self.runs,
            "stopped": self.stopped,
            "answers": [
                {
                    "arm": one.arm,
                    "eval": one.key,
                    "run": one.run,
                    "right": one.right,
                    "checks": list(one.checks),
                    "finished": one.reply.finished,
                    "text": one.reply.text,
                }
                for one in self.answers
            ],
        }


def _told(comparison: Comparison) -> dict[str, Any]:
    return {
        "pairs": comparison.pairs,
        "gained": comparison.gained,
        "lost": comparison.lost,
        "difference": comparison.difference,
        "interval": [round(x, 3) for x in comparison.interval],
        "verdict": comparison.verdict,
        "more_pairs": comparison.more,
    }


def check_skill(
    chat: Chat,
    evals: Sequence[Eval],
    skills: Mapping[Arm, str],
    log: AnswerLog,
    *,
    runs: int,
    most_tokens: int,
    temperature: float,
    budget: Budget = Budget(),
    sandbox: Sequence[str] = (),
    judge: Judge | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
    cancel: Callable[[], bool] = lambda: False,
) -> CheckResult:
    """Ask and judge; what the log has is not asked again.

    Args:
        skills: the text of the skill by arm, empty for none. An adapted skill that equals the original is not asked.

    Raises:
        MasaError: if the backbone gives no answer, or a check cannot be made; the log keeps what was answered.
    """
    same = skills["adapted"] == skills["original"]
    arms = [arm for arm in ARMS if not (same and arm == "adapted")]
    plan = [(run, arm, one) for run in range(runs) for arm in arms for one in evals]
    answers: list[Answered] = []
    begun, calls, tokens, stopped = time.monotonic(), 0, 0, ""
    for number, (run, arm, one) in enumerate(plan):
        progress(number, len(plan))
        key = f"{run}/{arm}/{one.key}"
        if key not in log.replies:
            stopped = "cancelled" if cancel() else budget.spent(calls, tokens, time.monotonic() - begun)
            if stopped:
                break
            reply = chat.reply(
                messages(skills[arm], one.prompt), most_tokens=most_tokens, seed=run, temperature=temperature
            )
            log.add(key, reply)
            if budget.tokens is not None and (reply.prompt_tokens is None or reply.tokens is None):
                raise MasaError(
                    "the server does not count tokens, so a budget of tokens cannot be kept; bound the calls"
                )
            calls += 1
            tokens += (reply.prompt_tokens or 0) + (reply.tokens or 0)
        reply = log.replies[key]
        met = tuple(passed(c, one.prompt, reply.text, sandbox=sandbox, judge=judge) for c in one.checks)
        answers.append(Answered(arm, one.key, run, reply, met))
    else:
        progress(len(plan), len(plan))
    return CheckResult(tuple(answers), runs, same, stopped)


def messages(skill: str, prompt: str) -> list[Message]:
    """A conversation in which the skill, if there is one, has been read."""
    lead = [{"role": "system", "content": f"Follow this skill.\n\n{skill}"}] if skill else []
    return [*lead, {"role": "user", "content": prompt}]


def judged_by(chat: Chat, log: AnswerLog) -> Judge:
    """A judge that is a model; it does not know which arm an answer is from. What it said is kept, too."""

    def judge(prompt: str, answer: str, statement: str) -> bool:
        question = (
            f"A model was asked:\n<request>\n{prompt}\n</request>\n\nIt answered:\n<answer>\n{answer}\n</answer>\n\n"
            f"Statement: {statement}\n\nDoes the statement hold for the answer? Reply with YES or NO alone."
        )
        key = f"judge/{hashlib.sha256(question.encode()).hexdigest()}"
        if key not in log.replies:
            log.add(key, chat.reply([{"role": "user", "content": question}], most_tokens=400))
        return log.replies[key].text.strip(" *`.\n").upper().startswith("YES")

    return judge


def skill_text(raw: bytes, where: Path) -> str:
    """A SKILL.md without its front matter, as an agent reads it; `where` names it.

    Raises:
        FormatError: if it is no SKILL.md.
    """
    from masa.formats.skill_md_document import parse_document

    document = parse_document(raw, str(where), folder=where.parent.name)
    lines = raw.decode("utf-8").removeprefix("\ufeff").splitlines(keepends=True)
    end = next(number for number, line in enumerate(lines) if number and line.rstrip() == "---")
    return f"# Skill: {document.name}\n\n{''.join(lines[end + 1 :]).strip()}\n"
