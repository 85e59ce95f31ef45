"""Reports as one HTML page that needs nothing else: no network, no script, light and dark, narrow and wide.

A page is a heading and sections; a section has paragraphs, tables, and texts before and after, side by side. All
text is escaped here, so whoever makes a report passes plain text.
"""

from __future__ import annotations

import difflib
import html
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

_WORD = re.compile(r"\s+|[^\s]+")
_MOST_WORDS = 4_000
"""Longer texts are compared line by line: comparing words takes time that grows with their number squared."""


class Piece(NamedTuple):
    """Some text, and whether it is in both versions or in one."""

    text: str
    change: Literal["same", "added", "removed"]


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of cells under a head; the columns in `right` are flushed right."""

    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    right: Sequence[int] = ()


@dataclass(frozen=True, slots=True)
class Change:
    """A text before and after. `note` stands beside the title, `reasons` below: why it was changed, or was not."""

    title: str
    before: str
    after: str
    note: str = ""
    reasons: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Section:
    """A part of a page, under its own heading. `state` is a word or two about it, `good` or not where it is either."""

    title: str
    state: str = ""
    good: bool | None = None
    lines: Sequence[str] = ()
    tables: Sequence[Table] = ()
    changes: Sequence[Change] = ()


def render_page(title: str, lines: Sequence[str], sections: Sequence[Section], tables: Sequence[Table] = ()) -> str:
    """A whole HTML document. `lines` and `tables` stand below the heading; several sections get a list of links."""
    body = [f"<h1>{_text(title)}</h1>", *(f"<p>{_text(line)}</p>" for line in lines), *map(_table, tables)]
    if len(sections) > 1:
        links = " ".join(f'<a href="#s{i}">{_text(section.title)}</a>' for i, section in enumerate(sections))
        body.append(f"<nav>{links}</nav>")
    for number, section in enumerate(sections):
        body += _section(section, number)
    head = f'<meta charset="utf-8"><meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
    head += '<meta name="viewport" content="width=device-width, initial-scale=1">'
    head += f"<title>{_text(title)}</title><style>{_STYLE}</style>"
    return f'<!doctype html>\n<html lang="en"><head>{head}</head>\n<body>\n' + "\n".join(body) + "\n</body></html>\n"


def _section(section: Section, number: int) -> Iterator[str]:
    kind = {True: "good", False: "bad", None: "plain"}[section.good]
    state = f' <span class="state {kind}">{_text(section.state)}</span>' if section.state else ""
    yield f'<section id="s{number}"><h2>{_text(section.title)}{state}</h2>'
    yield from (f"<p>{_text(line)}</p>" for line in section.lines)
    for table in section.tables:
        yield _table(table)
    for change in section.changes:
        yield _change(change)
    yield "</section>"


def _table(table: Table) -> str:
    def row(cells: Sequence[str], tag: str) -> str:
        scope = ' scope="col"' if tag == "th" else ""
        made = (
            f"<{tag}{scope}{' class=right' if column in table.right else ''}>{_text(cell)}</{tag}>"
            for column, cell in enumerate(cells)
        )
        return f"<tr>{''.join(made)}</tr>"

    rows = "\n".join(row(cells, "td") for cells in table.rows)
    return f'<div class="wide"><table>\n{row(table.head, "th")}\n{rows}\n</table></div>'


def _change(change: Change) -> str:
    note = f' <span class="note">{_text(change.note)}</span>' if change.note else ""
    reasons = "".join(f"<li>{_text(reason)}</li>" for reason in change.reasons)
    told = f"<ul>{reasons}</ul>" if reasons else ""
    if change.before == change.after:
        text = f"<details><summary>unchanged</summary><pre>{_text(change.before)}</pre></details>"
    else:
        before, after = _marked(change.before, change.after)
        text = (
            f'<div class="pair"><div><h4>before</h4><pre>{before}</pre></div>'
            f"<div><h4>after</h4><pre>{after}</pre></div></div>"
        )
    return f"<article><h3>{_text(change.title)}{note}</h3>{text}{told}</article>"


def pieces(old: str, new: str) -> list[Piece]:
    """The words of both texts: without those "added" they are the old text, without those "removed" the new one."""
    before, after = _WORD.findall(old), _WORD.findall(new)
    if len(before) + len(after) > _MOST_WORDS:
        before, after = old.splitlines(keepends=True), new.splitlines(keepends=True)
    found: list[Piece] = []
    for kind, a, b, c, d in difflib.SequenceMatcher(None, before, after, autojunk=False).get_opcodes():
        was, now = "".join(before[a:b]), "".join(after[c:d])
        found += [Piece(now, "same")] if kind == "equal" else [Piece(was, "removed"), Piece(now, "added")]
    return [piece for piece in found if piece.text]


def _marked(old: str, new: str) -> tuple[str, str]:
    """Both texts as HTML, what only one of them has in `del` and `ins`."""
    found = pieces(old, new)
    made = {"same": "{}", "removed": "<del>{}</del>", "added": "<ins>{}</ins>"}
    before, after = (
        "".join(made[piece.change].format(_text(piece.text)) for piece in found if piece.change != other)
        for other in ("added", "removed")
    )
    return before, after


def _text(text: str) -> str:
    """`text` escaped, and what no document may hold (controls, halves of surrogate pairs) shown as �."""
    return html.escape("".join(c if c.isprintable() or c in "\n\t" else "�" for c in text.replace("\r\n", "\n")))


_POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
_STYLE = """
:root { color-scheme: light dark; --paper: #fff; --ink: #1b1f24; --soft: #59636e; --line: #d1d9e0; --panel: #f6f8fa;
  --good: #1a7f37; --bad: #b35900; --added: #d2f3da; --removed: #ffdfdb; }
@media (prefers-color-scheme: dark) { :root { --paper: #0d1117; --ink: #e6edf3; --soft: #9aa4af; --line: #3a424c;
  --panel: #161b22; --good: #56d364; --bad: #f0963f; --added: #144d26; --removed: #6e2723; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 76rem; padding: 1rem 1.25rem 4rem; background: var(--paper); color: var(--ink);
  font: 15px/1.5 system-ui, sans-serif; overflow-wrap: anywhere; }
h1 { font-size: 1.5rem; margin: .5rem 0; } h3 { font-size: 1rem; margin: 1.2rem 0 .3rem; }
h2 { font-size: 1.2rem; margin: 2.2rem 0 .5rem; border-bottom: 1px solid var(--line); }
h4 { font-size: .8rem; margin: 0 0 .3rem; color: var(--soft); font-weight: 600; }
p { margin: .4rem 0; } a { color: inherit; } nav a { margin-right: 1rem; display: inline-block; }
.state, .note { font-weight: 400; font-size: .85em; color: var(--soft); }
.state.good { color: var(--good); } .state.bad { color: var(--bad); }
.pair { display: grid; grid-template-columns: 1fr 1fr; gap: .75rem; } .pair > div { min-width: 0; }
@media (max-width: 46rem) { .pair { grid-template-columns: 1fr; } }
.pair > div, details { border: 1px solid var(--line); border-radius: 6px; background: var(--panel);
  padding: .5rem .75rem; }
pre { white-space: pre-wrap; margin: 0; font: 13px/1.5 ui-monospace, monospace; }
summary { cursor: pointer; color: var(--soft); }
ins { background: var(--added); text-decoration: none; } del { background: var(--removed); text-decoration: none; }
ul { margin: .4rem 0; padding-left: 1.2rem; color: var(--soft); } .wide { overflow-x: auto; }
table { border-collapse: collapse; margin: .5rem 0; font-variant-numeric: tabular-nums; }
th, td { padding: .2rem .9rem .2rem 0; text-align: left; border-bottom: 1px solid var(--line); vertical-align: top;
  overflow-wrap: normal; }
td { white-space: pre-line; } .right { text-align: right; white-space: nowrap; }
"""
