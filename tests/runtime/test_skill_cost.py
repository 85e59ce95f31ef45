"""What a skill costs its reader: three tiers, what nothing refers to, what is not there, what is said again."""

from __future__ import annotations

from pathlib import Path

import pytest

from masa.formats.skill_md_document import parse_document
from masa.skill_cost import skill_cost

RULE = "Ask the user before you send anything to anyone."


def words(text: str) -> int:
    return len(text.split())


def test_tiers_lost_files_and_repeated_lines(tmp_path: Path) -> None:
    folder = tmp_path / "post"
    (folder / "references").mkdir(parents=True)
    (folder / "scripts").mkdir()
    for name in ("references/map.md", "references/lost.md", "scripts/send.py", "LICENSE"):
        (folder / name).write_text("one two three")
    code = "echo a long line of code\n" * 3
    text = (
        "---\nname: post\ndescription: Sends letters.\n---\n# Send\n\nRead [the map](references/map.md) and "
        f"[the plan](references/plan.md).\nRun `python scripts/send.py`.\n\n- {RULE}\n\n## Check\n\n- {RULE}\n\n"
        f"## Finish\n\n- {RULE}\n\n| a | b |\n|---|---|\n|---|---|\n|---|---|\n\n```sh\n{code}```\n"
    )
    cost = skill_cost(parse_document(text.encode(), "SKILL.md", folder="post"), folder, words)
    assert cost.always == words("post: Sends letters.")
    assert cost.body == words(text.split("---\n", 2)[2])
    assert [title for title, _ in cost.sections] == ["Send", "Check", "Finish"]
    assert cost.files == {"references/map.md": 3, "references/lost.md": 3}
    assert cost.unreferenced == ("references/lost.md",) and cost.missing == ("references/plan.md",)
    assert cost.repeated == 2 * words(f"- {RULE}")


@pytest.mark.parametrize(
    ("said", "lost"),
    [
        ("Read references/map.md.", True),
        ("See `references/` for more.", False),
        ("Pick one of references/*.md.", False),
        ("Read references/LANGUAGE.md.", True),
        ("Read references/{language}.md.", False),
        ("The file lost.md says it.", False),
        ("Read myreferences/ instead.", True),
    ],
)
def test_a_folder_that_is_named_names_its_files_and_a_path_in_it_does_not(
    tmp_path: Path, said: str, lost: bool
) -> None:
    for name in ("map.md", "lost.md"):
        (tmp_path / "references").mkdir(exist_ok=True)
        (tmp_path / "references" / name).write_text("one")
    text = f"---\nname: post\ndescription: Sends.\n---\n# Send\n\n{said}\n"
    cost = skill_cost(parse_document(text.encode(), "SKILL.md", folder="post"), tmp_path, words)
    assert ("references/lost.md" in cost.unreferenced) == lost
