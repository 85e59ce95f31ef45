"""Adapted skills: the old or the new one whatever happens, originals back byte for byte, edits of others never lost."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.support import in_child

from masa import files
from masa.adapted import Change, Store, Version, find_model, sha256
from masa.errors import FormatError, MasaError

NAMES = ("alpha", "beta", "gamma")


def original(name: str) -> bytes:
    return f"---\nname: {name}\ndescription: d\n---\n# {name}\n\nOld text.\r\nNo end".encode()


def adapted(name: str, model: str = "M-1B") -> bytes:
    return original(name).replace(b"Old", f"New, for {model},".encode())


def change(base: Path, name: str, model: str = "M-1B", *, more: bool = True) -> Change:
    added = {f"references/{model}.md": f"moved from {name}\n".encode()} if more else {}
    file = base / ".claude" / "skills" / name / "SKILL.md"
    return Change(file.resolve(), original(name), adapted(name, model), added, model, Version("", backbone="m.gguf"))


def changes(base: Path, model: str = "M-1B") -> list[Change]:
    return [change(base, name, model) for name in NAMES]


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """A project of three skills: a plain one, one that is a link to a folder, one whose SKILL.md is a link."""
    base = tmp_path / "project"
    for name in NAMES:
        folder = base / (".claude/skills" if name != "beta" else "tools") / name
        folder.mkdir(parents=True)
        (folder / "SKILL.md").write_bytes(original(name))
        (folder / "SKILL.md").chmod(0o640)
        (folder / "run.sh").write_text("echo\n")
        (folder / "run.sh").chmod(0o755)
    (base / ".claude/skills/beta").symlink_to("../../tools/beta")
    real = base / "tools" / "gamma.md"
    (base / ".claude/skills/gamma/SKILL.md").rename(real)
    (base / ".claude/skills/gamma/SKILL.md").symlink_to("../../../tools/gamma.md")
    return base


def tree(base: Path, *, but: str = "") -> dict[str, object]:
    """Every path below `base` with its kind, mode and content."""
    found: dict[str, object] = {}
    for path in sorted(base.rglob("*")):
        name = path.relative_to(base).as_posix()
        if but and (name == but or name.startswith(f"{but}/")):
            continue
        if path.is_symlink():
            found[name] = ("link", str(path.readlink()))
        else:
            found[name] = (path.stat().st_mode, path.read_bytes() if path.is_file() else None)
    return found


def skill_md(base: Path, name: str) -> bytes:
    return (base / ".claude" / "skills" / name / "SKILL.md").read_bytes()


def kill_at(number: int) -> None:
    """End this process by SIGKILL before its `number`-th call that changes a file or folder."""
    calls = [0]

    def counted(real: Callable[..., object]) -> Callable[..., object]:
        def call(*words: object, **more: object) -> object:
            calls[0] += 1
            if calls[0] == number:
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*words, **more)

        return call

    for name in ("write", "replace", "rename", "unlink", "mkdir", "rmdir", "fsync", "chmod"):
        setattr(os, name, counted(getattr(os, name)))


def test_apply_and_undo_bring_back_every_byte_mode_and_link(base: Path) -> None:
    before = tree(base)
    outcomes = Store(base).apply(changes(base))
    assert [outcome.done for outcome in outcomes] == [True] * 3
    assert [skill_md(base, name) for name in NAMES] == [adapted(name) for name in NAMES]
    assert (base / "tools/beta/references/M-1B.md").read_text() == "moved from beta\n"
    after = tree(base, but=".masa")
    assert after["tools/gamma.md"] == (before["tools/gamma.md"][0], adapted("gamma"))  # type: ignore[index]
    assert after[".claude/skills/gamma/SKILL.md"] == before[".claude/skills/gamma/SKILL.md"]
    assert all(outcome.done for outcome in Store(base).undo())
    assert tree(base) == before


def test_versions_of_several_models_are_kept_and_switched(base: Path) -> None:
    before = tree(base)
    store = Store(base)
    store.apply(changes(base))
    store.apply(changes(base, "N-2B"))
    assert skill_md(base, "beta") == adapted("beta", "N-2B")
    assert sorted(p.name for p in (base / "tools/beta/references").iterdir()) == ["N-2B.md"]
    assert all(outcome.done for outcome in store.switch(find_model([store], "m-1b")))
    assert skill_md(base, "beta") == adapted("beta")
    assert sorted(p.name for p in (base / "tools/beta/references").iterdir()) == ["M-1B.md"]
    assert {store.state(entry) for entry in store.entries().values()} == {("adapted", "M-1B")}
    with pytest.raises(MasaError, match=r"M-1B, N-2B"):
        find_model([store], "Z")
    store.undo()
    assert tree(base) == before


def test_a_version_that_changes_nothing_is_the_original_in_effect(base: Path) -> None:
    store = Store(base)
    store.apply(changes(base))
    same = [Change(c.file, c.original, c.original, {}, "Keeps", c.version) for c in changes(base)]
    store.apply(same)
    assert skill_md(base, "alpha") == original("alpha")
    assert {store.state(entry) for entry in store.entries().values()} == {("adapted", "Keeps")}


@pytest.mark.parametrize("action", ["apply", "undo", "switch"])
def test_a_process_killed_at_any_point_leaves_the_old_or_the_new_skill(base: Path, action: str) -> None:
    """At every point where something is written, until it comes through: well over twenty for each action."""
    before = tree(base)
    store = Store(base)
    points = 0
    for number in range(1, 400):
        old = {name: original(name) for name in NAMES}
        new = {name: adapted(name) for name in NAMES}
        if action == "undo":
            store.apply(changes(base))
            old, new = new, old
        elif action == "switch":
            store.apply(changes(base))
            store.apply(changes(base, "N-2B"))
            old = {name: adapted(name, "N-2B") for name in NAMES}

        def work(number: int = number) -> None:
            kill_at(number)
            ours = Store(base)
            if action == "apply":
                ours.apply(changes(base))
            elif action == "undo":
                ours.undo()
            else:
                ours.switch("M-1B")

        status = in_child(work)
        assert status in (0, -signal.SIGKILL)
        for name in NAMES:
            now = skill_md(base, name)
            assert now in (old[name], new[name]), f"point {number}: half of {name}"
            # Whoever reads the new text finds the files that it refers to.
            if now == adapted(name):
                folder = (base / ".claude" / "skills" / name / "SKILL.md").resolve().parent
                assert (folder / "references/M-1B.md").read_text() == f"moved from {name}\n"
        assert all(outcome.done for outcome in store.undo())
        assert tree(base) == before, f"point {number}"
        points += 1
        if status == 0:
            break
    assert points > 20


def test_twenty_processes_at_once_leave_one_whole_state(base: Path) -> None:
    before = tree(base)
    children = []
    for number in range(20):
        child = os.fork()
        if not child:
            try:
                store = Store(base)
                for _ in range(3):
                    store.undo() if number % 4 == 3 else store.apply(changes(base, f"M-{number % 3}B"))
                os._exit(0)
            except BaseException:
                os._exit(3)
        children.append(child)
    assert {os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children} == {0}
    store = Store(base)
    possible = {name: {original(name), *(adapted(name, f"M-{n}B") for n in range(3))} for name in NAMES}
    assert all(skill_md(base, name) in possible[name] for name in NAMES)
    assert {store.state(entry)[0] for entry in store.entries().values()} <= {"adapted", "original"}
    assert all(outcome.done for outcome in store.undo())
    assert tree(base) == before


def test_who_removed_the_folder_leaves_the_one_of_the_next_writer(base: Path) -> None:
    store = Store(base)
    with store._locked():
        store.folder.rmdir()
        store.folder.mkdir()  # as the next writer does, whose lock this folder is
    assert store.folder.is_dir()


@pytest.mark.parametrize("action", ["apply", "undo"])
def test_a_disk_that_fills_up_at_any_write_loses_nothing(
    base: Path, action: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = tree(base)
    real = os.write
    for room in range(12):
        if action == "undo":
            Store(base).apply(changes(base))
        left = [room]

        def write(descriptor: int, data: bytes, left: list[int] = left) -> int:
            left[0] -= 1
            if left[0] < 0:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return real(descriptor, data)

        monkeypatch.setattr(files.os, "write", write)
        told: list[str] = []
        try:
            outcomes = Store(base).apply(changes(base)) if action == "apply" else Store(base).undo()
            told = [outcome.message for outcome in outcomes if not outcome.done]
        except MasaError as error:
            told = [str(error)]
        monkeypatch.setattr(files.os, "write", real)
        assert left[0] >= 0 or (told and all("no space left" in message for message in told))
        for name in NAMES:
            assert skill_md(base, name) in (original(name), adapted(name))
        Store(base).undo()
        assert tree(base) == before


def test_an_edit_of_the_users_is_never_written_over_and_shown_three_ways(base: Path) -> None:
    store = Store(base)
    store.apply(changes(base))
    file = base / ".claude/skills/alpha/SKILL.md"
    file.write_bytes(adapted("alpha") + b"\nMy line.\n")
    for outcomes in (store.apply(changes(base, "N-2B")), store.switch("M-1B"), store.undo()):
        (refused,) = [outcome for outcome in outcomes if not outcome.done]
        assert refused.file.parent.name == "alpha" and "edited" in refused.message
        assert "-Old text." in refused.diff and "+My line." in refused.diff
        assert skill_md(base, "alpha").endswith(b"My line.\n")
    assert skill_md(base, "beta") == original("beta")
    assert [outcome.file.parent.name for outcome in store.adopt()] == ["alpha"]
    assert store.entries() == {} and not (base / ".masa").exists()
    assert skill_md(base, "alpha").endswith(b"My line.\n")


def test_a_skill_that_changed_while_it_was_adapted_stays(base: Path) -> None:
    wanted = changes(base)
    (base / ".claude/skills/alpha/SKILL.md").write_bytes(b"---\nname: alpha\n---\nother\n")
    outcomes = {outcome.file.parent.name: outcome for outcome in Store(base).apply(wanted)}
    assert "run masa adapt again" in outcomes["alpha"].message and outcomes["beta"].done


def test_a_skill_that_is_gone_is_told_and_can_be_forgotten(base: Path) -> None:
    store = Store(base)
    store.apply(changes(base))
    (base / ".claude/skills/alpha/SKILL.md").unlink()
    (gone,) = [outcome for outcome in store.undo() if not outcome.done]
    assert "is not there" in gone.message
    store.adopt()
    assert store.entries() == {}


def test_a_store_that_somebody_edited_costs_one_sentence_and_no_text(base: Path) -> None:
    store = Store(base)
    store.apply(changes(base))
    kept = base / ".masa/adapt-objects" / sha256(original("beta"))
    kept.write_bytes(b"something else")
    outcomes = {outcome.file.parent.name: outcome for outcome in store.undo()}
    assert "was changed after it was stored" in outcomes["beta"].message and outcomes["alpha"].done
    assert skill_md(base, "beta") == adapted("beta")
    lock = base / ".masa/adapt.lock.json"
    good = json.loads(lock.read_text())
    for damage in ("", "[]", '{"format": 99, "skills": {}}', '{"format": 1}', '{"format": "1", "skills": {}}'):
        lock.write_text(damage)
        for call in (store.entries, store.undo, store.adopt, lambda: store.apply(changes(base))):
            with pytest.raises(FormatError, match=r"adapt\.lock\.json"):
                call()
    for path in ("../outside/SKILL.md", "/etc/passwd", "a\\..\\b", ""):
        lock.write_text(json.dumps({"format": 1, "skills": {path: next(iter(good["skills"].values()))}}))
        with pytest.raises(FormatError, match="is damaged"):
            store.entries()
    assert skill_md(base, "beta") == adapted("beta")


def test_a_lock_that_leads_out_through_a_link_changes_nothing_outside(base: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside" / "SKILL.md"
    outside.parent.mkdir()
    outside.write_bytes(adapted("alpha"))
    store = Store(base)
    store.apply([change(base, "alpha")])
    (base / "way").symlink_to(outside.parent)
    lock = base / ".masa/adapt.lock.json"
    lock.write_text(lock.read_text().replace(".claude/skills/alpha/SKILL.md", "way/SKILL.md"))
    assert not any(outcome.done for outcome in store.undo())
    assert outside.read_bytes() == adapted("alpha")


def test_a_file_of_the_users_where_one_is_to_be_added_is_kept(base: Path) -> None:
    mine = base / ".claude/skills/alpha/references/M-1B.md"
    mine.parent.mkdir()
    mine.write_text("mine\n")
    outcomes = {outcome.file.parent.name: outcome for outcome in Store(base).apply(changes(base))}
    assert "exists already" in outcomes["alpha"].message and outcomes["beta"].done
    assert mine.read_text() == "mine\n" and skill_md(base, "alpha") == original("alpha")
    Store(base).undo()
    assert mine.read_text() == "mine\n"


def test_a_read_only_folder_is_told_and_the_others_go_on(base: Path) -> None:
    fcntl = pytest.importorskip("fcntl")  # loaded here: the child may not read where Python is
    assert fcntl.flock
    with tempfile.TemporaryDirectory() as name:
        project = Path(name) / "project"
        shutil.copytree(base, project, symlinks=True)
        (project / ".claude/skills/alpha").chmod(0o555)

        def work() -> None:
            told = Store(project).apply([change(project, name, more=False) for name in NAMES])
            outcomes = {outcome.file.parent.name: outcome for outcome in told}
            assert "not allowed to write" in outcomes["alpha"].message and not outcomes["alpha"].done
            assert outcomes["beta"].done

        assert in_child(work, owner_of=Path(name)) == 0
        assert skill_md(project, "alpha") == original("alpha") and skill_md(project, "beta") == adapted("beta")
        (project / ".claude/skills/alpha").chmod(0o755)
