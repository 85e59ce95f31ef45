"""A project with seventeen skills in the folders of several clients: 300 sections, two skills over 9,000 tokens, links,
one broken. The prose is ours and is put together from pieces, the same at every call."""

from __future__ import annotations

from pathlib import Path

TOPICS = (
    ("invoice-check", "invoices", "scripts/check_invoice.py", "amount"),
    ("csv-clean", "CSV tables", "scripts/clean.py", "column"),
    ("release-notes", "release notes", "scripts/notes.py", "entry"),
    ("log-triage", "log files", "scripts/triage.py", "line"),
    ("slide-deck", "slide decks", "scripts/deck.py", "slide"),
    ("api-review", "HTTP interfaces", "scripts/review.py", "route"),
    ("photo-sort", "photo folders", "scripts/sort.py", "picture"),
    ("recipe-scale", "recipes", "scripts/scale.py", "ingredient"),
    ("test-writer", "unit tests", "scripts/tests.py", "case"),
    ("map-draw", "maps", "scripts/draw.py", "layer"),
    ("mail-draft", "letters", "scripts/draft.py", "paragraph"),
    ("data-merge", "data sets", "scripts/merge.py", "record"),
    ("icon-set", "icons", "scripts/icons.py", "glyph"),
    ("budget-plan", "budgets", "scripts/plan.py", "cost"),
    ("style-guide", "house style", "scripts/style.py", "rule"),
    ("site-audit", "web sites", "scripts/audit.py", "page"),
)
BROKEN = "form-fill"
LONG = ("api-review", "site-audit")
_HEADINGS = (
    "Before you begin", "Find the input", "Check it", "Make the change", "When it fails", "Names", "Report",
    "Size limits", "Dates", "Ask first", "Keep a copy", "Finish",
)  # fmt: skip
_SENTENCES = (
    "Open the folder that the user names, and look for {many} there.",
    "Read one {one} after the other and note what is missing, since a gap found late costs the most time.",
    "If there is no {one} at all, ask the user for it and stop.",
    "Run `python {script} --input data/in.json` and read what it prints.",
    "Write the result to `out/{name}.md`, then show the user the first ten lines.",
    "Do not change a {one} that the user has marked as final.",
    "When two entries say different things, keep the newer one and mention the other in the report.",
    "This helps the reader to see at once what is new.",
    "Count the {many} before and after, and compare both numbers.",
    "Take the unit from the header, because it is easy to confuse grams and ounces.",
    "Never send anything to `https://example.org/upload` unless the user has agreed.",
    "After each {one}, save the file and go on with the next one.",
    "At most 20 {many} fit on a page; start a new page for the rest.",
    "Please make sure that every {one} has a name (for example a short noun).",
    "Sort by date first, then by name, and leave out whatever is older than 90 days.",
    "Stop as soon as the check passes; a second run changes nothing.",
)


def section(topic: int, number: int, sentences: int) -> str:
    name, many, script, one = TOPICS[topic]
    heading = _HEADINGS[number % len(_HEADINGS)]
    level = "#" * (1 if number == 0 else 2 + (number % 5 == 4))
    told = [
        _SENTENCES[(topic * 7 + number * 5 + place * 3) % len(_SENTENCES)].format(
            name=name, many=many, script=script, one=one
        )
        for place in range(sentences)
    ]
    told.insert(0, f"Part {number + 1} is about {_HEADINGS[(number * 5 + 3) % len(_HEADINGS)].lower()} for {many}.")
    text = f"{level} {heading} {number + 1}\n\n" + " ".join(told[:4]) + "\n"
    if number % 3 == 1:
        text += "\n" + "".join(f"- {sentence}\n" for sentence in told[4:] or told[:2])
    elif told[4:]:
        text += "\n" + " ".join(told[4:]) + "\n"
    if number % 4 == 2:
        text += f"\n```sh\npython {script} --section {number} --out out/{name}.json\n```\n"
    return text


def skill_md(topic: int, sections: int, sentences: int) -> str:
    name, many, script, one = TOPICS[topic]
    head = (
        f"---\nname: {name}\ndescription: Works on {many} step by step. Use it when the user asks to check, change or"
        f" report {many}, or names a {one}.\nlicense: Apache-2.0\n---\n\n"
    )
    body = "\n".join(section(topic, number, sentences) for number in range(sections))
    return f"{head}{body}\nColumns are described in [the reference](references/{one}s.md), the code is in `{script}`.\n"


def write_project(project: Path) -> dict[str, Path]:
    """Write the folders below `project`; the SKILL.md of each skill by name, the broken one among them.

    Ten skills are in `.claude/skills`, four in `.agents/skills` of which two are linked from `.claude/skills`, two in
    `.github/skills`; `.cursor/skills` is a link to `.claude/skills`.
    """
    places: dict[str, Path] = {}
    for topic, (name, many, script, one) in enumerate(TOPICS):
        root = ".claude" if topic < 10 else ".agents" if topic < 14 else ".github"
        folder = project / root / "skills" / name
        long = name in LONG
        sections = 45 if long else 15  # 2 × 45 + 14 × 15 = 300
        (folder / "scripts").mkdir(parents=True)
        (folder / "references").mkdir()
        (folder / "SKILL.md").write_text(skill_md(topic, sections, 14 if long else 6), encoding="utf-8")
        (folder / script).write_text(f"print({name!r})\n", encoding="utf-8")
        (folder / script).chmod(0o755)
        (folder / "references" / f"{one}s.md").write_text(f"# {many}\n\nEach {one} has a name.\n", encoding="utf-8")
        places[name] = folder / "SKILL.md"
    broken = project / ".claude" / "skills" / BROKEN / "SKILL.md"
    broken.parent.mkdir()
    broken.write_text("---\nname: form-fill\ndescription: Fills in forms.\n\nFill in the form.\n", encoding="utf-8")
    places[BROKEN] = broken
    for name in ("mail-draft", "data-merge"):
        (project / ".claude" / "skills" / name).symlink_to(f"../../.agents/skills/{name}")
    (project / ".cursor").mkdir()
    (project / ".cursor" / "skills").symlink_to("../.claude/skills")
    return places
