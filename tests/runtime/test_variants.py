"""Variants: stored beside the original, complete or not at all, and honest about being stale."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import textwrap
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest

from masa import variants
from masa.errors import FormatError, MasaError
from masa.formats.skill_md import load_skill_folder, save_skill_folder
from masa.formats.skill_md_tree import fingerprint
from masa.variants import Record, diff, find, list_variants, staleness, store, variants_dir

RECORD = Record(
    card_name="Qwen3-4B",
    card_fingerprint="0123456789abcdef",
    card=MappingProxyType({"family": "Qwen3", "num_layers": 36}),
    artifact_name="smollm2-135m",
    artifact_fingerprint="f00d",
    prompt_version=1,
    provenance={"kept": 2, "groups": ["a"]},
)


@dataclass(frozen=True)
class FakeCard:
    fingerprint: str
    values: Mapping[str, Any]

    def fields(self) -> Mapping[str, Any]:
        return self.values


def writes(text: str) -> Callable[[Path], None]:
    return lambda path: path.write_text(text, encoding="utf-8") and None


@pytest.fixture
def bank(tmp_path: Path) -> Path:
    path = tmp_path / "bank.json"
    path.write_text('{\n  "general_skills": []\n}\n')
    return path


def test_a_variant_lies_beside_its_original_with_its_record(bank: Path) -> None:
    stored = store(bank, writes("new\n"), RECORD)

    assert stored.path == bank.parent / ".masa" / "bank.json" / "0123456789ab-smollm2-135m"
    assert sorted(p.name for p in stored.path.iterdir()) == ["bank.json", "variant.json"]
    assert stored.output.read_text() == "new\n"
    assert stored.original_sha256 == hashlib.sha256(bank.read_bytes()).hexdigest()
    assert stored.output_sha256 == hashlib.sha256(b"new\n").hexdigest()
    content = json.loads((stored.path / "variant.json").read_text())
    assert content["format"] == 1
    assert content["card"] == {"family": "Qwen3", "num_layers": 36}
    assert content["provenance"] == {"kept": 2, "groups": ["a"]}
    assert list_variants(bank) == (stored,)
    assert find(bank, "0123456789abcdef", "smollm2-135m") == stored
    assert find(bank, "0123456789abcdef", "other") is None
    assert bank.read_text() == '{\n  "general_skills": []\n}\n'


def test_a_newer_variant_of_the_same_card_and_artifact_replaces_the_older(bank: Path) -> None:
    store(bank, writes("one"), RECORD)
    other = store(bank, writes("other"), replace(RECORD, artifact_name="hf:me/rewriter"))
    store(bank, writes("two"), RECORD)

    assert {v.output.read_text() for v in list_variants(bank)} == {"two", "other"}
    assert len(list(variants_dir(bank).iterdir())) == 2
    assert find(bank, RECORD.card_fingerprint, "hf:me/rewriter") == other


def test_artifact_names_that_look_alike_as_folders_stay_apart(bank: Path) -> None:
    for name in ("hf:a/b", "hf-a-b", "hf/a:b", "../../x"):
        stored = store(bank, writes(name), replace(RECORD, artifact_name=name))
        assert stored.path.parent == variants_dir(bank)
    assert {v.record.artifact_name for v in list_variants(bank)} == {"hf:a/b", "hf-a-b", "hf/a:b", "../../x"}


def test_a_bank_called_like_the_record_keeps_both(tmp_path: Path) -> None:
    bank = tmp_path / "variant.json"
    bank.write_text("{}")
    assert store(bank, writes("new"), RECORD).output.read_text() == "new"


def test_a_failing_write_leaves_the_older_variant_and_nothing_else(bank: Path) -> None:
    old = store(bank, writes("old"), RECORD)

    def fails(path: Path) -> None:
        path.write_text("half")
        raise KeyboardInterrupt

    def full(path: Path) -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(KeyboardInterrupt):
        store(bank, fails, RECORD)
    with pytest.raises(MasaError, match=r"No space left on device.*nothing was replaced"):
        store(bank, full, RECORD)
    with pytest.raises(MasaError, match="could not be stored"):
        store(bank, lambda path: None, RECORD)
    assert list_variants(bank) == (old,)
    assert [p.name for p in variants_dir(bank).iterdir()] == [old.path.name]


@pytest.mark.parametrize("moment", ["in write", "before the swap", "inside the swap", "after the swap"])
def test_a_killed_process_leaves_a_usable_variant(bank: Path, moment: str) -> None:
    store(bank, writes("old"), RECORD)
    script = f"""
        import os, sys
        from pathlib import Path
        from masa import variants
        from tests.runtime.test_variants import RECORD
        moment = {moment!r}
        def write(path):
            path.write_text("new")
            if moment == "in write":
                os._exit(9)
        real, calls = Path.rename, []
        def rename(self, target):
            if moment == "before the swap" or (moment == "inside the swap" and calls):
                os._exit(9)
            calls.append(self)
            return real(self, target)
        Path.rename = rename
        if moment == "after the swap":
            variants._clean = lambda *args: os._exit(9)
        variants.store(Path({str(bank)!r}), write, RECORD)
    """
    root = Path(__file__).resolve().parents[2]
    paths = os.pathsep.join([str(root), str(root / "runtime")])
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        env={**os.environ, "PYTHONPATH": paths},
        cwd=root,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 9, done.stderr

    (left,) = list_variants(bank)
    assert left.output.read_text() == ("new" if moment == "after the swap" else "old")
    assert find(bank, RECORD.card_fingerprint, RECORD.artifact_name) == left

    for stray in variants_dir(bank).glob(".tmp-*"):
        os.utime(stray, (0, 0))
    store(bank, writes("newer"), RECORD)
    assert [p.name for p in variants_dir(bank).iterdir()] == ["0123456789ab-smollm2-135m"]
    assert list_variants(bank)[0].output.read_text() == "newer"


def test_a_temporary_folder_another_process_may_still_write_is_left_alone(bank: Path) -> None:
    fresh = variants_dir(bank) / ".tmp-fresh"
    fresh.mkdir(parents=True)
    store(bank, writes("x"), RECORD)
    assert fresh.exists()
    assert len(list_variants(bank)) == 1


@pytest.mark.parametrize(
    "damage",
    ["", "[]", "{}", "\xff", '{"format": 99}', '{"format": "1"}'],
)
def test_damaged_records_are_passed_over_and_logged(bank: Path, damage: str, caplog: pytest.LogCaptureFixture) -> None:
    good = store(bank, writes("good"), RECORD)
    bad = variants_dir(bank) / "bad"
    bad.mkdir()
    (bad / "variant.json").write_text(damage, encoding="latin-1")
    assert list_variants(bank) == (good,)
    assert "bad" in caplog.text
    good.output.unlink()
    assert list_variants(bank) == ()


def test_the_diff_is_unified_and_says_where_a_final_newline_is_missing(bank: Path) -> None:
    stored = store(bank, writes('{\n  "general_skills": [1]\n}'), RECORD)
    assert diff(bank, stored).splitlines() == [
        "--- original/bank.json",
        "+++ variant/bank.json",
        "@@ -1,3 +1,3 @@",
        " {",
        '-  "general_skills": []',
        "-}",
        '+  "general_skills": [1]',
        "+}",
        "\\ No newline at end of file",
    ]
    assert diff(bank, store(bank, writes(bank.read_text()), RECORD)) == ""
    bank.unlink()
    with pytest.raises(FormatError, match="nothing to compare"):
        diff(bank, stored)


def test_an_up_to_date_variant_is_not_stale_and_each_change_is_named(bank: Path) -> None:
    stored = store(bank, writes("new"), RECORD)
    same = FakeCard(RECORD.card_fingerprint, RECORD.card)
    assert staleness(stored, bank) == ()
    assert staleness(stored, bank, same, "f00d") == ()

    changed = FakeCard("fedcba", {"family": "Qwen3", "num_layers": 40, "weaknesses": "none"})
    (reason,) = staleness(stored, bank, changed)
    assert reason == "the model card has changed (num_layers, weaknesses)"
    (reason,) = staleness(stored, bank, None, "beef")
    assert reason == "the rewriter smollm2-135m has changed"

    stored.output.write_text("by hand")
    bank.write_text("{}")
    reasons = staleness(stored, bank, changed, "beef")
    assert len(reasons) == 4
    assert "the original bank.json has changed" in reasons
    bank.unlink()
    assert "missing" in staleness(stored, bank)[0]


def test_an_original_that_changed_while_it_was_adapted_makes_the_variant_stale(bank: Path) -> None:
    loaded = fingerprint(bank)
    bank.write_text("{}")
    assert staleness(store(bank, writes("new"), RECORD, original_sha256=loaded), bank)


def test_a_skill_folder_is_stored_as_a_folder_and_every_file_of_it_counts(tmp_path: Path) -> None:
    skill = tmp_path / "skills" / "pdf"
    (skill / "scripts").mkdir(parents=True)
    (skill / "SKILL.md").write_text("---\nname: pdf\ndescription: x\n---\nold text\n")
    (skill / "scripts" / "run.py").write_text("1")

    def write(path: Path) -> None:
        save_skill_folder(load_skill_folder(skill), path)

    stored = store(skill / "SKILL.md", write, RECORD)
    assert stored.output == tmp_path / "skills" / ".masa" / "pdf" / "0123456789ab-smollm2-135m" / "pdf"
    assert fingerprint(stored.output) == fingerprint(skill) == stored.original_sha256
    assert staleness(stored, skill) == ()
    assert list(load_skill_folder(stored.output).task_specific) == ["pdf"]
    # The folder of all skills does not see its own variants, so variants of variants cannot pile up.
    assert list(load_skill_folder(tmp_path / "skills").task_specific) == ["pdf"]

    (stored.output / "SKILL.md").write_text("---\nname: pdf\ndescription: x\n---\nnew text\n")
    (stored.output / "added.bin").write_bytes(b"\xff")
    assert "-old text\n+new text\n" in diff(skill, stored)
    assert "Binary files original/added.bin and variant/added.bin differ" in diff(skill, stored)

    before = fingerprint(skill)
    (skill / "scripts" / "run.py").write_text("2")
    assert fingerprint(skill) != before
    (skill / "scripts" / "run.py").write_text("1")
    assert fingerprint(skill) == before
    (skill / "empty").mkdir()
    assert fingerprint(skill) != before


def test_a_fingerprint_does_not_follow_links(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "outside").write_text("1")
    (tmp_path / "a" / "link").symlink_to("../outside")
    before = fingerprint(tmp_path / "a")
    (tmp_path / "outside").write_text("2")
    assert fingerprint(tmp_path / "a") == before


def test_storing_in_a_folder_without_permission_is_one_sentence(bank: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(variants.Path, "mkdir", refuse)
    with pytest.raises(MasaError, match="Permission denied"):
        store(bank, writes("x"), RECORD)
