"""`masa adapt`: what agents read is found, shown, adapted in place, switched and undone."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from tests.runtime.agent_folders import TOPICS, write_project
from tests.runtime.artifact_samples import write_artifact
from tests.support import ScriptedBackend

from masa.cli import root

Adapt = Callable[..., Result]

CARD = "family: Sample\nvariant: 1B\nweaknesses: skips steps\n"
TEXT = "Open the drawer and look inside. Take the mug. Run `python scripts/wash.py --mug 1`. Put it on the shelf."


def put(folder: Path, name: str, text: str = TEXT) -> Path:
    file = folder / name / "SKILL.md"
    file.parent.mkdir(parents=True)
    file.write_text(f"---\nname: {name}\ndescription: Washes {name}.\n---\n# Steps\n\n{text}\n", encoding="utf-8")
    return file


def steps(prompt: str) -> str:
    """Numbered steps for every section."""
    return "\n".join(f"{number} steps" for number in range(1, len(re.findall(r"^## \[\d+\]", prompt, re.M)) + 1))


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with two skills, a user with one, cards and a rewriter."""
    project, home = tmp_path / "project", tmp_path / "home"
    put(project / ".claude" / "skills", "mugs")
    put(project / ".agents" / "skills", "plates")
    put(home / ".claude" / "skills", "forks")
    (tmp_path / "card.yaml").write_text(CARD)
    (tmp_path / "other.yaml").write_text(CARD.replace("1B", "2B"))
    write_artifact(tmp_path / "rewriter")
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("MASA_HOME", str(tmp_path / "masa"))
    monkeypatch.chdir(project)
    return project


@pytest.fixture
def adapt(project: Path, monkeypatch: pytest.MonkeyPatch) -> Adapt:
    """`masa adapt`; with `to="card"` for that card."""
    from masa.backends.llama import LlamaBackend

    monkeypatch.setattr(LlamaBackend, "load", lambda *args, **kwargs: ScriptedBackend(steps))

    def run(*words: str, to: str = "") -> Result:
        target = ["--backbone", f"../{to}.yaml", "--rewriter", "../rewriter"] if to else []
        return CliRunner().invoke(root, ["adapt", *words, *target], prog_name="masa")

    return run


def texts(project: Path) -> dict[str, str]:
    files = [*project.rglob("SKILL.md"), *project.parent.glob("home/.claude/skills/*/SKILL.md")]
    return {file.parent.name: file.read_text("utf-8") for file in files}


def test_nothing_is_written_before_it_is_asked_for(adapt: Adapt, project: Path) -> None:
    before = texts(project)
    result = adapt(to="card")
    assert result.exit_code == 0, result.output
    assert all(name in result.stdout for name in ("mugs", "plates", "forks")) and "steps" in result.stdout
    assert texts(project) == before and not (project / ".masa").exists()
    told = json.loads(adapt("--json", to="card").stdout)
    assert [skill["skill"] for skill in told["skills"]] == ["mugs", "plates", "forks"]
    assert told["skills"][0]["edits"] == {"steps": 1} and not told["tokens"]["exact"]
    assert not (project / ".masa").exists()


def test_applied_skills_are_in_effect_and_undone(adapt: Adapt, project: Path) -> None:
    before = texts(project)
    assert adapt("--apply", to="card").exit_code == 0
    assert all("1. Open the drawer" in text and "`python scripts/wash.py" in text for text in texts(project).values())
    status = json.loads(adapt("--status", "--json").stdout)["skills"]
    assert [(one["state"], one["model"], one["stale"]) for one in status] == [("adapted", "Sample-1B", [])] * 3
    assert "+1. Open the drawer" in adapt("--diff").stdout
    # Adapting again starts from the originals.
    assert adapt("--apply", to="card").exit_code == 0
    assert all(text.count("1. Open") == 1 for text in texts(project).values())
    assert adapt("--undo").exit_code == 0
    assert texts(project) == before and not (project / ".masa").exists()
    assert "Nothing here is adapted" in adapt("--undo").stdout
    wrong = adapt("--undo", "nope")
    assert wrong.exit_code == 1 and "nope: no such file" in wrong.stderr


def test_the_page_shows_every_skill_before_and_after(adapt: Adapt, project: Path) -> None:
    assert adapt("--html", "../report.html", to="card").exit_code == 0
    page = Path("../report.html").read_text("utf-8")
    for words in ("skips steps", "mugs", "plates", "forks", "steps", "Nothing was written", "python scripts/wash.py"):
        assert words in page
    assert page.count("<ins>") >= 3
    put(project / ".claude" / "skills", "pots").parent.joinpath("SKILL.md").write_text("no front matter")
    assert adapt("--apply", "--html", "../report.html", to="card").exit_code == 0
    page = Path("../report.html").read_text("utf-8")
    assert "no front matter" in page and "adapted for Sample-1B" in page and "Nothing was written" not in page
    assert not list(project.rglob("*.html"))
    for place in ("..", "nowhere/report.html"):
        assert adapt("--html", place, to="card").exit_code == 1
    assert adapt("--undo", "--html", "../report.html").exit_code == 2


def test_models_are_switched_without_a_rewriter(adapt: Adapt, project: Path) -> None:
    adapt("--apply", to="card")
    adapt("--apply", to="other")
    shutil.rmtree(project.parent / "rewriter")
    assert adapt("--for", "sample-1b").exit_code == 0
    status = json.loads(adapt("--status", "--json").stdout)["skills"]
    assert {one["model"] for one in status} == {"Sample-1B"}
    assert status[0]["models"] == ["Sample-1B", "Sample-2B"]
    result = adapt("--for", "nobody")
    assert result.exit_code == 1 and "there are: Sample-1B, Sample-2B" in result.stderr


def test_what_a_killed_run_left_in_the_store_is_told_and_cleaned_up(adapt: Adapt, project: Path) -> None:
    left = project / ".masa" / "adapt-objects" / ("0" * 64)
    left.parent.mkdir(parents=True)
    left.write_text("a text that no lock names")
    assert "1 text" in adapt("--status").stdout and left.is_file()
    assert adapt("--undo").exit_code == 0 and not (project / ".masa").exists()


def test_what_went_stale_is_told(adapt: Adapt, project: Path) -> None:
    adapt("--apply", to="card")
    (project.parent / "card.yaml").write_text(CARD.replace("skips steps", "overlooks instructions"))
    assert adapt("--status").stdout.count("the model card has changed (weaknesses)") == 3


def test_facts_reach_the_rewriter_and_are_watched(adapt: Adapt, project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from masa.backends.llama import LlamaBackend

    shown = ScriptedBackend(lambda prompt: steps(prompt).replace("steps", "example"))
    monkeypatch.setattr(LlamaBackend, "load", lambda *args, **kwargs: shown)
    facts = project.parent / "facts.yaml"
    facts.write_text("environment: kitchen\nexamples: ['Task: wash the mug. Reply: wash mug with sink']\n")
    done = adapt("--facts", str(facts), "--apply", to="card")
    assert done.exit_code == 0, done.output
    assert all("wash mug with sink" in text for text in texts(project).values())
    assert "facts" not in adapt("--status").stdout
    assert '"file": "../facts.yaml"' in (project / ".masa/adapt.lock.json").read_text(), "a lock may be committed"
    facts.write_text("environment: kitchen\n")
    assert adapt("--status").stdout.count("the facts in") == 3


def test_an_edit_of_the_users_is_shown_and_kept_while_the_others_go_on(adapt: Adapt, project: Path) -> None:
    adapt("--apply", to="card")
    file = project / ".claude/skills/mugs/SKILL.md"
    file.write_text(file.read_text() + "Mine.\n")
    for words, to in ((("--apply",), "other"), (("--undo",), "")):
        result = adapt(*words, to=to)
        assert result.exit_code == 1 and "was edited" in result.stderr and "+Mine." in result.stdout
        assert file.read_text().endswith("Mine.\n")
    assert "1. Open" not in (project / ".agents/skills/plates/SKILL.md").read_text()
    assert "+Mine." in adapt("--diff").stdout
    assert adapt("--adopt").exit_code == 0 and adapt("--undo").exit_code == 0
    assert file.read_text().endswith("Mine.\n")


def test_folders_that_are_named_are_the_only_ones(adapt: Adapt, project: Path) -> None:
    before = texts(project)
    assert adapt(".claude/skills", "--apply", to="card").exit_code == 0
    changed = {name for name, text in texts(project).items() if text != before[name]}
    assert changed == {"mugs"}
    adapt("--apply", to="card")
    assert adapt("--undo", ".agents/skills").exit_code == 0
    assert {name for name, text in texts(project).items() if text == before[name]} == {"plates"}


def test_uncommitted_changes_are_told_before_anything_is_written(adapt: Adapt, project: Path) -> None:
    if shutil.which("git") is None:
        pytest.skip("no git")
    git = ["git", "-C", str(project), "-c", "user.email=a@example.org", "-c", "user.name=a"]
    subprocess.run([*git, "init", "-q"], check=True)
    subprocess.run([*git, "add", "."], check=True)
    subprocess.run([*git, "commit", "-qm", "x"], check=True)
    assert "not committed" not in adapt("--apply", to="card").stderr
    adapt("--undo")
    file = project / ".claude/skills/mugs/SKILL.md"
    file.write_text(file.read_text() + "More.\n")
    result = adapt("--apply", to="card")
    assert "not committed to git: .claude/skills/mugs/SKILL.md" in result.stderr


def test_mistakes_of_use_are_one_sentence(adapt: Adapt, project: Path) -> None:
    def refused(*words: str, to: str = "", code: int = 1) -> str:
        result = adapt(*words, to=to)
        assert result.exit_code == code and "Traceback" not in result.output, result.output
        return result.stderr

    assert "--backbone" in refused(code=2)
    assert "do not go together" in refused("--apply", "--undo", code=2)
    assert "do not go together" in refused("--apply", "--for", "X", to="card", code=2)
    assert "no such folder" in refused("nowhere", to="card")
    (project / "empty").mkdir()
    assert "no skills found" in refused("empty", to="card")
    (project / "bank.json").write_text("{}")
    assert "masa rewrite" in refused("bank.json", to="card", code=2)
    (project / ".masa").mkdir()
    (project / ".masa/adapt.lock.json").write_text("{")
    before = texts(project)
    assert "adapt.lock.json" in refused("--undo")
    # The user's skills are not the project's: they go on.
    assert "adapt.lock.json" in refused("--apply", to="card")
    assert {name for name, text in texts(project).items() if text != before[name]} == {"forks"}


def test_seventeen_skills_of_several_clients(adapt: Adapt, project: Path) -> None:
    shutil.rmtree(project / ".claude")
    shutil.rmtree(project / ".agents")
    manifest = project.parent / "rewriter" / "manifest.json"  # of a rewriter that learned from rules: it reads a few
    told = json.loads(manifest.read_text())
    told["training_data"] |= {"trained": True, "synthetic": True}
    manifest.write_text(json.dumps(told))
    places = write_project(project)
    before = {path: path.read_bytes() for path in project.rglob("*") if path.is_file()}
    told = json.loads(adapt(".", "--apply", "--json", to="card").stdout)
    skills: dict[str, Any] = {skill["skill"]: skill for skill in told["skills"]}
    assert set(skills) == {name for name, *_ in TOPICS}
    assert all(skill["applied"]["done"] for skill in skills.values()) and told["rewriter"]["read"] < 20
    assert sum(len(skill["before"]["sections"]) for skill in skills.values()) == 300
    broken = places["form-fill"].relative_to(project)
    assert [p["file"] for p in told["problems"] if p["severity"] == "error"] == [str(broken)]
    assert any("tokens; the specification" in p["message"] for p in skills["api-review"]["problems"])
    assert adapt(".", "--undo").exit_code == 0
    assert {path: path.read_bytes() for path in project.rglob("*") if path.is_file()} == before
