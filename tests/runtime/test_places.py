"""Skills are found where agents look for them, each once, project before user, and nothing else is touched."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest
from tests.runtime.agent_folders import BROKEN, TOPICS, write_project
from tests.support import in_child

from masa.places import CLIENTS, USER_CLIENTS, Found, agent_places, find, find_project, named_place


def put(root: Path, name: str, text: str = "Do it.") -> Path:
    file = root / name / "SKILL.md"
    file.parent.mkdir(parents=True)
    file.write_text(f"---\nname: {name}\ndescription: Does {name}.\n---\n{text}\n", encoding="utf-8")
    return file


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "home").mkdir()
    (tmp_path / "project").mkdir()
    return tmp_path / "project"


def found_in(project: Path) -> Found:
    return find(agent_places(project, project.parent / "home"))


def test_every_folder_of_every_client_is_looked_into_project_first(project: Path) -> None:
    home = project.parent / "home"
    for number, client in enumerate((*CLIENTS, *USER_CLIENTS)):
        put(home / client / "skills", f"user-{number}")
        if client in CLIENTS:
            put(project / client / "skills", f"project-{number}")
    keys = [skill.key for skill in found_in(project).skills]
    assert keys == [f"project-{n}" for n in range(8)] + [f"user-{n}" for n in range(11)]


def test_the_large_project_is_found_once_whatever_its_links(project: Path) -> None:
    write_project(project)
    found = found_in(project)
    assert sorted(skill.key for skill in found.skills) == sorted(name for name, *_ in TOPICS)
    assert sum(len(skill.document.sections) for skill in found.skills) == 300
    assert not any(skill.left for skill in found.skills)
    assert [Path(p.file).parent.name for p in found.problems if p.severity == "error"] == [BROKEN]
    told = " ".join(str(problem) for problem in found.problems)
    assert ".cursor/skills: is the same folder as" in told and told.count("is the same file as") == 2


def test_a_skill_of_the_user_is_shadowed_by_the_projects_of_its_name(project: Path) -> None:
    put(project / ".claude" / "skills", "pdf", "Ours.")
    put(project / ".codex" / "skills", "pdf", "Codex has its own.")
    put(project.parent / "home" / ".agents" / "skills", "pdf", "The user's.")
    ours, codex, users = found_in(project).skills
    assert not ours.left and not codex.left and "shadowed by" in users.left
    assert "wins over it" in str(users.problems[-1]) and "offers one of them" in str(codex.problems[-1])
    assert len({ours.key, codex.key, users.key}) == 3


def test_a_link_out_of_the_project_is_told_and_left(project: Path) -> None:
    put(project.parent / "elsewhere", "far")
    put(project / ".claude" / "skills", "near")
    (project / ".claude" / "skills" / "far").symlink_to(project.parent / "elsewhere" / "far")
    far, near = found_in(project).skills
    assert "a link out of" in far.left and not near.left
    # A user's skill that a project links to is the user's own all the same.
    put(project.parent / "home" / ".claude" / "skills", "mine")
    (project / ".claude" / "skills" / "mine").symlink_to(project.parent / "home" / ".claude" / "skills" / "mine")
    mine = [skill for skill in found_in(project).skills if skill.document.name == "mine"]
    assert [(bool(skill.left), skill.place.scope) for skill in mine] == [(True, "project"), (False, "user")]


def test_what_cannot_be_read_stops_nothing(project: Path) -> None:
    put(project / ".claude" / "skills", "good")
    (project / ".agents").mkdir()
    (project / ".agents" / "skills").write_text("not a folder")
    (project / ".goose").mkdir()
    (project / ".goose" / "skills").symlink_to("nowhere")
    (project / ".gemini" / "skills").mkdir(parents=True)
    (project / ".codex" / "skills" / "notes").mkdir(parents=True)
    locked = put(project / ".github" / "skills", "locked").parent.parent
    locked.chmod(0)
    try:
        found = found_in(project)
    finally:
        locked.chmod(0o755)
    told = " ".join(str(problem) for problem in found.problems)
    assert found.skills[0].key == "good"
    assert "is no folder" in told and "link to nothing" in told and "no SKILL.md" in told
    if os.geteuid():  # root reads everything
        assert "cannot be read" in told and len(found.skills) == 1


@pytest.mark.parametrize("closed", [".claude", ".claude/skills", ".claude/skills/tea"])
def test_a_folder_that_may_not_be_read_is_told_and_the_others_go_on(closed: str) -> None:
    with tempfile.TemporaryDirectory() as name:
        project = Path(name) / "project"
        put(project / ".claude" / "skills", "tea")
        put(project / ".agents" / "skills", "coffee")
        found_in(project)  # what is imported late: the child may not read where Python is
        (project / closed).chmod(0)

        def work() -> None:
            assert find_project(project) == project
            found = found_in(project)
            assert [skill.key for skill in found.skills] == ["coffee"]
            assert any("permissions" in problem.message for problem in found.problems)

        assert in_child(work, owner_of=Path(name)) == 0
        (project / closed).chmod(0o755)


def test_the_project_is_the_nearest_folder_with_skills_within_the_repository(project: Path) -> None:
    (project / ".git").mkdir()
    put(project / ".claude" / "skills", "one")
    deep = project / "src" / "deep"
    deep.mkdir(parents=True)
    assert find_project(deep) == project.resolve()
    put(deep / ".agents" / "skills", "two")
    assert find_project(deep) == deep.resolve()
    (deep / ".git").mkdir()
    assert find_project(deep / "lower") == deep.resolve()


def test_a_named_folder_belongs_to_the_project_or_home_whose_it_is(project: Path) -> None:
    skill = put(project / ".claude" / "skills", "one")
    for path in (skill, skill.parent, skill.parent.parent):
        assert named_place(path).base == project.resolve()
    loose = put(project.parent / "loose" / "skills", "two")
    assert named_place(loose.parent.parent).base == (project.parent / "loose").resolve()
