"""A report counts for exactly the files and the way of asking that it is about."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from masa.artifact import read_manifest
from masa_export.errors import ExportError
from masa_export.verify.stored_report import read_report, require_report
from tests.runtime.artifact_samples import ADAPTER, entry

from .publish_samples import change_manifest, verified

TEMPLATE = {"before_system": [], "before_user": [], "before_assistant": []}


def proof(folder: Path) -> Any:
    return read_report(folder, read_manifest(folder))


def refusal(folder: Path) -> str:
    with pytest.raises(ExportError) as caught:
        require_report(folder, read_manifest(folder))
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_what_the_report_says_is_read(tmp_path: Path) -> None:
    found = proof(verified(tmp_path))
    assert found.passed and found.failed == () and found.divergence == 0.0125
    assert {v.name: v.value for v in found.verdicts}["kl"] == 0.0125
    assert (found.checkpoint, found.strictness, found.chosen) == ("runs/plan/checkpoint", "8 bits", 24)


@pytest.mark.parametrize(
    "changes",
    [
        {"files": {"weights.gguf": entry(b"others")}},
        {"adapter": "more.gguf", "files": {"more.gguf": entry(ADAPTER)}},
        {"stop": ["<end>"], "chat_template": TEMPLATE},
        {"language": "text"},
        {"context_length": 512},
        {"training_data": {"summary": "none", "trained": True}},
    ],
)
def test_other_files_or_another_way_of_asking_make_it_stale(tmp_path: Path, changes: dict[str, Any]) -> None:
    folder = verified(tmp_path)
    if changes.get("adapter"):
        changes["files"] |= json.loads((folder / "manifest.json").read_text("utf-8"))["files"]
    change_manifest(folder, **changes)
    assert proof(folder) is None
    assert "is about other files than those beside it" in (message := refusal(folder))
    assert message.endswith(f"run: masa export verify {folder} --against runs/plan/checkpoint -o {folder}")


def test_names_and_where_a_file_lies_may_change(tmp_path: Path) -> None:
    folder = verified(tmp_path)
    there = json.loads((folder / "manifest.json").read_text("utf-8"))["files"]["weights.gguf"]
    packaged = {"weights.gguf": {"package": "some", "version": "1.0", "path": "some/w.gguf", **there}}
    change_manifest(folder, name="another", version="2", licence="MIT", files={}, packaged=packaged)
    assert proof(folder).passed and require_report(folder, read_manifest(folder)).passed


def forget_json(folder: Path) -> None:
    (folder / "verify.json").unlink()


def forget_markdown(folder: Path) -> None:
    (folder / "verify.md").unlink()


def spoil(folder: Path) -> None:
    (folder / "verify.json").write_text('{"passed": true, "subject": [', encoding="utf-8")


def forge(folder: Path) -> None:
    (folder / "verify.json").write_text('{"passed": true}', encoding="utf-8")


def exaggerate(folder: Path) -> None:
    text = (folder / "verify.json").read_text("utf-8")
    (folder / "verify.json").write_text(text.replace('"chosen": 24', '"chosen": Infinity'), encoding="utf-8")


@pytest.mark.parametrize("damage", [forget_json, forget_markdown, spoil, forge, exaggerate])
def test_without_a_report_the_command_that_makes_one_is_told(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    folder = verified(tmp_path)
    damage(folder)
    assert "holds no parity report" in (message := refusal(folder))
    assert f"masa export verify {folder} --against" in message and message.endswith(f"-o {folder}")


@pytest.mark.parametrize("divergence", [None, "nan", "inf"])
def test_a_report_that_compared_no_logits_proves_nothing(tmp_path: Path, divergence: str | None) -> None:
    folder = verified(tmp_path)
    content = json.loads((folder / "verify.json").read_text("utf-8"))
    content["likeness"] = None if divergence is None else {**content["likeness"], "divergence": divergence}
    (folder / "verify.json").write_text(json.dumps(content), encoding="utf-8")
    assert proof(folder).passed
    assert "does not tell how far logits are from the checkpoint's" in (message := refusal(folder))
    assert message.endswith(f"run: masa export verify {folder} --against runs/plan/checkpoint -o {folder}")


def test_a_report_that_failed_says_what(tmp_path: Path) -> None:
    folder = verified(tmp_path, figures={"kl": 0.5, "top1": 0.2})
    assert proof(folder).passed is False
    assert "says that the artifact failed (kl, top1)" in refusal(folder)
