"""Skills, groups and plans for property tests: prose and Markdown put together from pieces."""

from __future__ import annotations

from hypothesis import strategies as st

from masa.edits import EDITS, EditCall, Plan, PlanLine, droppable
from masa.edits.additions import WARN_KINDS
from masa.facts import ActionForm, Facts
from masa.skills import Group, Skill

FACTS = Facts(
    environment="household",
    actions=(
        ActionForm("go to {place}", "walk there", "go to desk 1"),
        ActionForm("take {object} from {place}", "pick something up"),
        ActionForm("move {object} to {place}", "put down what you carry"),
        ActionForm("open {place}"),
    ),
    rules=("You carry one object at a time.",),
    examples=("go to desk 1\ntake pen 1 from desk 1", "Search `pen colour`, then answer."),
)

SENTENCES = (
    "Search every drawer exactly once before you go back; start with the open ones.",
    "As soon as you see the key, take it before moving on to avoid losing track of it.",
    "Always read the label (size, colour, price) because titles are often wrong.",
    "Do not repeat an action that failed.",
    "This prevents wasted steps.",
    "Steps: (1) Find the cup. (2) 'take cup 1 from desk 1'. (3) Go to <place>.",
    "If nothing happens, try e.g. another drawer, i.e. one you have not opened.",
    "You carry one object at a time.",
    "Run `make test` and read scripts/check.py first.",
    "See [the guide](references/guide.md) or https://example.org/a?b=1.",
    "Use {name} with $HOME, never [slot] alone!",
    'Answer with the bare value ("42"), not with a sentence.',
    "Upon arriving, open the door, place the cup inside, and close it.",
    "Finde die Tasse und bringe sie zurück.",
    "1. Take it. 2. Go to X. 3. Drop it.",
    "⚠️ NEVER leave it — you would lose it!",
    "",
)
_BLOCKS = (
    "# Title",
    "## When {x} fails",
    "```bash\nmake build  # {target}\n\n- not a list\n```",
    "- first item, take it\n- second item (see `b`)\n  - nested item with <slot>\n- third one",
    "1. open it\n2. take the cup\n3. close it",
    "| a | b |\n|---|---|\n| `1` | {y} |",
    "> quoted line\n> and [link](https://example.org)",
    "    indented = code\n    more = code",
    "<div>\nraw html\n</div>",
    "[id]: https://example.org/ref",
    "---",
    "- [ ] read the task\n- [x] open references/forms.md\n\n  A second paragraph. It has two sentences.",
    "- run this:\n\n  ```\n  code\n  ```\n- and stop",
    "A hard wrapped\nparagraph goes on. It has\ntwo sentences.",
)
_paragraph = st.lists(st.sampled_from(SENTENCES[:-1]), min_size=1, max_size=5).map(" ".join)
_noise = st.text("ab .:;,!?()[]{}<>`'\"#*-_1\n\t—→é", min_size=1, max_size=40)
principles = st.one_of(
    _paragraph,
    st.lists(st.one_of(_paragraph, st.sampled_from(_BLOCKS)), min_size=1, max_size=6).map("\n\n".join),
    st.lists(st.one_of(_paragraph, st.sampled_from(_BLOCKS), _noise), min_size=1, max_size=4).map("\n".join),
).filter(str.strip)
principles = st.one_of(principles, principles, principles.map(lambda text: text.replace("\n", "\r\n") + "\r\n"))
conditions = st.sampled_from(
    (
        "",
        "When the key is missing.",
        "Upon first sight of the key",
        "Any task with 'put two'.",
        "Target object is visible",
        "Holding the cup.",
        "Every single step.",
        "After searching. For {x} too.",
    )
)
titles = st.sampled_from(("Search once", "Take it; go", "Use <slot>", "READ", "A long title " * 6 + "end"))
skills = st.builds(Skill, st.just("s_1"), titles, principles, conditions)
facts = st.sampled_from((None, FACTS, Facts("empty")))


@st.composite
def groups(draw: st.DrawFn) -> Group:
    """A group of one to four skills with distinct identifiers."""
    drawn = draw(st.lists(st.tuples(titles, principles, conditions), min_size=1, max_size=4))
    return Group("t", tuple(Skill(f"s_{index}", *fields) for index, fields in enumerate(drawn)))


@st.composite
def plans(draw: st.DrawFn, group: Group) -> Plan:
    """A plan that fits a group."""
    lines = []
    survivor = False
    for number, skill in enumerate(group.skills, 1):
        structural = ["keep"]
        if survivor:
            structural.append("merge-up")
        if droppable(skill) and (survivor or number < len(group)):
            structural.append("drop")
        if draw(st.booleans()):
            calls = [EditCall(draw(st.sampled_from(structural)))]
        else:
            names = [name for name, edit in EDITS.items() if not edit.structural]
            chosen = draw(st.lists(st.sampled_from(names), min_size=1, unique=True))
            calls = [
                EditCall(name, draw(st.sampled_from(EDITS[name].argument)) if EDITS[name].argument else None)
                for name in names
                if name in chosen
            ]
        survivor = survivor or calls[0].name not in ("drop", "merge-up")
        lines.append(PlanLine(number, tuple(calls)))
    warnings = draw(st.lists(st.sampled_from(WARN_KINDS), max_size=2, unique=True))
    return Plan(tuple(lines), tuple(warnings))
