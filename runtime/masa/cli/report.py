"""The report of a rewrite for people: every skill before and after, a summary, an estimate."""

from __future__ import annotations

import difflib
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from masa.cli.output import clean, count, duration, table, wrap
from masa.markdown import blocks, join

if TYPE_CHECKING:
    from masa.cards import ModelCard
    from masa.estimate import Estimate
    from masa.html_report import Change, Section
    from masa.provenance import GroupResult, RewriteResult, SkillFate
    from masa.skills import Skill

_STATUS_COLOURS = {"rewritten": "green", "fell back": "yellow", "cancelled": "yellow", "kept": "cyan"}
_STRUCTURAL = ("keep", "drop", "merge-up")
"""Edits that the status of a skill tells already."""
_WORD = re.compile(r"\s+|[^\s]+")
_BREAK = re.compile(r"[ \t]*\r?\n[ \t]*")


def diff_text(result: RewriteResult) -> str:
    """Every group with every skill: what it was, what it is, by which edits."""
    return "\n\n".join("\n".join(_group(group)) for group in result.groups)


def summary_text(result: RewriteResult) -> str:
    """A row per group, why groups fell back, totals, and whether the rewriter knows its job."""
    rows = [
        (
            group.key,
            group.status + (" (cached)" if group.cached else ""),
            f"{len(group.source)} → {len(group.output)}",
            _edits_used(group) or "–",
            f"{group.tokens:,}",
            f"{group.seconds:.1f}",
        )
        for group in result.groups
    ]
    lines = ["", table(rows, ("group", "status", "skills", "edits", "tokens", "s"), right=(4, 5)), ""]
    reasons: dict[tuple[str, str], list[str]] = {}
    for group in result.groups:
        if group.reason:
            reasons.setdefault((group.status, group.reason), []).append(group.key)
    for (status, reason), keys in reasons.items():
        lines.append(wrap(f"{', '.join(keys)} {status}: {reason}", "", "  "))
    lines += [""] if reasons else []
    if result.groups and all(group.status == "kept" for group in result.groups):
        lines.append("Nothing was changed: the result equals its source.")
    lines.append(_totals(result))
    note = _note(result)
    if note:
        lines.append(click.style("Note: ", fg="yellow") + f"{clean(result.artifact)} {note}")
    return "\n".join(lines)


def card_text(card: ModelCard, options: Mapping[str, Any]) -> str:
    """What the card says of its backbone and which edits that calls for; where it says nothing, what would."""
    from masa.card_calls import BY_FACTS, OFF, calls_of, switched_off

    out, calls = switched_off(options), calls_of(card.weaknesses)
    if not calls.weaknesses:
        advice = "`masa profile MODEL --probe` measures them, docs/write-a-card.md says how to write them"
        return wrap(f"{card.name}: its card names no weaknesses, so nothing calls for an edit; {advice}.", "", "  ")
    lines = [f"{card.name}, as its card says:"]
    for words, edit in calls.weaknesses:
        name = edit.split(" ")[0]
        off = "" if name not in out else f", off without --also {name}" if name in OFF else ", switched off"
        if name in BY_FACTS and options.get("facts") is None:
            off = ", which needs --facts FILE; without it the rewriter may choose another edit"
        answer = f"{edit}{off}" if edit else "no edit is known to answer this; the rewriter decides"
        lines.append(f"  {words} → {answer}")
    return "\n".join(wrap(line, "", "    ") for line in lines)


def html_text(result: RewriteResult, bank: str) -> str:
    """The whole report as one HTML page, for `masa.html_report`'s readers."""
    from masa.html_report import render_page

    lines = [f"{bank}, rewritten for {result.card}. {_totals(result)}."]
    note = _note(result)
    lines += [f"{result.artifact} {note}"] if note else []
    return render_page(f"Skills for {result.card}", lines, html_sections(result.groups))


def html_sections(groups: Sequence[GroupResult]) -> list[Section]:
    """A section of an HTML page for each group: every skill before and after, the edits, and what the guard said."""
    from masa.html_report import Section

    sections = []
    for group in groups:
        figures = (
            f"{count(len(group.source), 'skill')} before, {len(group.output)} after; {group.tokens:,} tokens written"
        )
        lines = [figures + (" (cached)." if group.cached else "."), *([group.reason] if group.reason else [])]
        lines += [f"The guard ({violation.rule}): {violation.message}" for violation in group.violations]
        good = True if group.status == "rewritten" else None if group.status == "kept" else False
        sections.append(Section(group.key, group.status, good, lines, changes=tuple(html_changes(group))))
    return sections


def html_changes(group: GroupResult) -> Iterator[Change]:
    """Every skill of a group before and after, by which edits, and what was lost."""
    from masa.html_report import Change

    for place, skill in enumerate(group.output.skills):
        fates = [fate for fate in group.fates if place in fate.outputs]
        before = "\n\n".join(_shown(group.source.skills[fate.number - 1]) for fate in fates)
        lost = [f"lost: {sentence}" for fate in fates for sentence in fate.lost]
        yield Change(skill.title, before, _shown(skill), _said(fates), lost)
    for fate in group.fates:
        if not fate.outputs:
            gone = group.source.skills[fate.number - 1]
            yield Change(gone.title, _shown(gone), "", _said([fate]), [f"lost: {sentence}" for sentence in fate.lost])


def _shown(skill: Skill) -> str:
    when = f"When: {skill.when_to_apply}" if skill.when_to_apply else ""
    return "\n\n".join(part for part in (skill.title, when, skill.principle) if part)


def _note(result: RewriteResult) -> str:
    """What a reader should know before they trust the choices."""
    if not result.trained:
        return "has not been trained to rewrite yet: its choices are safe, but not good ones."
    if result.synthetic:
        return "was trained on synthetic plans: its choices follow stated rules and no results; measure them."
    return ""


def estimate_text(estimate: Estimate) -> str:
    """What a rewrite would take, a row per group."""
    rows = [
        (
            group.key,
            str(group.skills),
            f"{group.prompt_tokens:,}",
            f"{group.most_tokens:,}",
            group.problem or "",
        )
        for group in estimate.groups
    ]
    read = estimate.shared_tokens + sum(group.prompt_tokens for group in estimate.groups)
    written = sum(group.most_tokens for group in estimate.groups)
    return "\n".join(
        (
            table(rows, ("group", "skills", "reads", "writes at most", ""), right=(1, 2, 3)),
            "",
            f"{read:,} tokens to read ({estimate.shared_tokens:,} of them once for all groups) "
            f"at {estimate.prompt_speed:.0f} tokens/s",
            f"{written:,} tokens to write at most, at {estimate.decode_speed:.0f} tokens/s",
            f"At most about {duration(estimate.seconds)}; groups in the cache cost nothing.",
        )
    )


def estimate_json(estimate: Estimate) -> dict[str, Any]:
    return {
        "shared_tokens": estimate.shared_tokens,
        "prompt_tokens_per_second": round(estimate.prompt_speed, 1),
        "tokens_per_second": round(estimate.decode_speed, 1),
        "most_seconds": round(estimate.seconds, 3),
        "groups": [
            {
                "group": group.key,
                "skills": group.skills,
                "prompt_tokens": group.prompt_tokens,
                "most_tokens": group.most_tokens,
                "problem": group.problem or None,
            }
            for group in estimate.groups
        ],
    }


def _group(group: GroupResult) -> Iterator[str]:
    colour = _STATUS_COLOURS.get(group.status)
    head = click.style(f"━━ {clean(group.key)} ", bold=True) + click.style(group.status, fg=colour)
    if group.status == "rewritten":
        head += f" · {len(group.source)} → {count(len(group.output), 'skill')}"
    yield head
    if group.reason and group.status != "kept":  # why it was kept, the summary says
        yield wrap(group.reason, "   ", "   ")
    if group.status in ("fell back", "cancelled"):
        return
    untouched: list[str] = []
    for place, skill in enumerate(group.output.skills):
        fates = [fate for fate in group.fates if place in fate.outputs]
        sources = [group.source.skills[fate.number - 1] for fate in fates]
        if len(fates) == 1 and fates[0].status in ("kept", "pinned", "fell back"):
            word = "" if fates[0].status == "kept" else f" ({fates[0].status})"
            untouched.append(f"{clean(skill.skill_id or skill.title)}{word}")
            continue
        yield ""
        yield _title(skill, fates)
        yield from _before_after(sources, skill)
        yield from _lost(fates)
    for fate in group.fates:
        if not fate.outputs:
            gone = group.source.skills[fate.number - 1]
            yield ""
            yield _title(gone, [fate])
            yield from _lost([fate]) if fate.lost else [click.style(wrap(gone.principle, "   - ", "     "), fg="red")]
    if untouched:
        yield ""
        yield wrap(f"unchanged: {', '.join(untouched)}", "   ", "   ")


def _lost(fates: Sequence[SkillFate]) -> Iterator[str]:
    """The sentences that the plan took away, one a line."""
    for fate in fates:
        for sentence in fate.lost:
            yield click.style(wrap(f"lost: {clean(sentence)}", "   ", "     "), fg="yellow")


def _title(skill: Skill, fates: Sequence[SkillFate]) -> str:
    name = f"{clean(skill.skill_id)} " if skill.skill_id else ""
    return f"   {name}{click.style(clean(skill.title), bold=True)}  {click.style(f'[{_said(fates)}]', dim=True)}"


def _said(fates: Sequence[SkillFate]) -> str:
    """What became of the skills that an output was made of, in a few words."""
    words = []
    for fate in fates:
        edits = [edit for edit in fate.edits if edit not in _STRUCTURAL]
        word = fate.status if len(fates) == 1 else f"{clean(fate.skill_id) or fate.number}"
        if "first" in edits and len(fates) == 1:
            edits.remove("first")
            word += ", moved to the front"
        if fate.status == "kept" and edits:
            word += ", nothing to change by"
        words.append(f"{word}: {', '.join(edits)}" if edits else word)
    said = " + ".join(words) if len(fates) > 1 else (words[0] if words else "new")
    return f"merged from {said}" if len(fates) > 1 else said


def _before_after(sources: Sequence[Skill], skill: Skill) -> Iterator[str]:
    for name in ("title", "when_to_apply", "principle"):
        old = [getattr(source, name) for source in sources]
        new = getattr(skill, name)
        if not new and not any(old):
            continue
        if (len(old) == 1 and old[0] == new) or (not old and name == "title"):
            continue
        label = {"title": "title: ", "when_to_apply": "when: ", "principle": ""}[name]
        was = [wrap(label + _flowing(text), "   - ", "     ") for text in old if text]
        now = wrap(label + _flowing(new), "   + ", "     ") if new else ""
        if len(was) == 1 and now:
            yield from _marked(was[0], now)
        else:
            yield from (click.style(text, fg="red") for text in was)
            if now:
                yield click.style(now, fg="green")


def _flowing(text: str) -> str:
    """Markdown with each paragraph on one line, for the terminal to wrap."""
    parts = (part.with_text(_BREAK.sub(" ", part.text)) if part.prose else part for part in blocks(text))
    return join(parts)


def _marked(old: str, new: str) -> Iterator[str]:
    """Both texts, the words that differ in bold. Works on wrapped text: layout does not count as a difference."""
    before, after = _WORD.findall(old), _WORD.findall(new)
    left = [i for i, word in enumerate(before) if not word.isspace()]
    right = [i for i, word in enumerate(after) if not word.isspace()]
    matcher = difflib.SequenceMatcher(None, [before[i] for i in left], [after[i] for i in right], autojunk=False)
    same_left: set[int] = set()
    same_right: set[int] = set()
    for a, b, length in matcher.get_matching_blocks():
        same_left.update(left[a : a + length])
        same_right.update(right[b : b + length])
    for words, same, colour in ((before, same_left, "red"), (after, same_right, "green")):
        yield "".join(
            word
            if word.isspace()
            else click.style(word, fg=colour, bold=i not in same and word not in "+-", dim=i in same)
            for i, word in enumerate(words)
        )


def _edits_used(group: GroupResult) -> str:
    if group.status in ("fell back", "cancelled"):
        return ""
    used = Counter(edit for fate in group.fates for edit in fate.edits if edit != "keep")
    words = [edit if number == 1 else f"{edit} ×{number}" for edit, number in used.most_common()]
    words += [f"+{len(group.added)} new"] if group.added else []
    return ", ".join(words)


def _totals(result: RewriteResult) -> str:
    skills = sum(len(group.fates) for group in result.groups)
    by_status = Counter(fate.status for group in result.groups for fate in group.fates)
    words = [f"{number} {status}" for status, number in by_status.most_common()]
    said = f"{count(skills, 'skill')}: {', '.join(words)}" if words else "nothing to rewrite"
    time = duration(result.seconds)
    speed = f", {result.tokens:,} tokens" if result.tokens else ""
    running = running_text(result.language, result.form, result.form_reason)
    return f"{said} · for {clean(result.card)} in {time}{speed} · {clean(result.artifact)} ({running})"


def running_text(language: str, form: str | None, reason: str) -> str:
    """What runs, in a few words, and where that is the artifact as it was shipped, why."""
    if form is not None:
        return f"{language}, {form} form"
    return f"{language}, as shipped: {reason}" if reason else language
