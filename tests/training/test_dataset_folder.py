"""The folder of a data set: written whole or not at all, verified when it is read, read by the usual trainers."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest

from masa.errors import FormatError, MasaError
from masa.files import WriteError
from masa_training.dataset import Dataset, DatasetInfo, load_dataset, write_dataset
from masa_training.dataset import folder as folder_module
from masa_training.dataset.build import build_dataset
from masa_training.dataset.config import Counts, Places
from masa_training.dataset.data_card import data_card
from masa_training.dataset.folder import RECORD, SPLITS
from masa_training.errors import TrainingError
from masa_training.samples import dumps_sample, messages
from tests.training.dataset_banks import CONFIG, ByteBase, dataset_config, edit, write_banks


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    folder = write_banks(tmp_path_factory.mktemp("banks"))
    config = replace(dataset_config(CONFIG), samples=Counts(intermediate=1, other_backbone=1, adapter=0, augmented=0))
    return build_dataset(config, Places(folder, None), ByteBase())


@pytest.fixture
def written(toy: Dataset, tmp_path: Path) -> Path:
    write_dataset(tmp_path / "data", toy, data_card(toy))
    return tmp_path / "data"


def test_what_was_written_is_what_is_read(toy: Dataset, written: Path) -> None:
    assert load_dataset(written) == toy
    assert {path.name for path in written.iterdir()} == {
        "train.jsonl",
        "validation.jsonl",
        "test.jsonl",
        "dataset.json",
        "README.md",
    }
    assert [path.name for path in written.parent.iterdir()] == ["data"]
    record = json.loads((written / RECORD).read_text())
    assert record["format"] == 1 and set(record) == {"format", *(item.name for item in fields(DatasetInfo))}


def test_the_same_data_set_gives_the_same_bytes(toy: Dataset, written: Path, tmp_path: Path) -> None:
    write_dataset(tmp_path / "again", toy, data_card(toy))
    for file in written.iterdir():
        assert (tmp_path / "again" / file.name).read_bytes() == file.read_bytes()


def test_the_checksum_of_a_data_set_depends_on_every_sample(toy: Dataset, tmp_path: Path) -> None:
    one = write_dataset(tmp_path / "one", toy, "")
    other = write_dataset(tmp_path / "other", replace(toy, test=toy.test[1:]), "")
    assert one.sha256 == toy.info.sha256 != other.sha256


def test_the_files_load_with_datasets_as_conversations(written: Path, tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    files = {split: str(written / f"{split}.jsonl") for split in SPLITS}
    loaded = datasets.load_dataset("json", data_files=files, cache_dir=str(tmp_path / "cache"))
    assert {split: len(rows) for split, rows in loaded.items()} == {
        split: len(load_dataset(written).split(split)) for split in SPLITS
    }
    for split in SPLITS:
        for row, sample in zip(loaded[split], load_dataset(written).split(split), strict=True):
            assert row["messages"] == messages(sample)
            assert [message["role"] for message in row["messages"]] == ["system", "user", "assistant"]


@pytest.mark.model
def test_trl_takes_a_sample_for_a_conversation(toy: Dataset) -> None:
    data_utils = pytest.importorskip("trl.data_utils")
    for sample in toy.train[:3]:
        assert data_utils.is_conversational(json.loads(dumps_sample(sample)))


# --- damage ----------------------------------------------------------------------------------------


def test_a_changed_byte_is_found_by_its_checksum(written: Path) -> None:
    for name in ("train.jsonl", "validation.jsonl", "test.jsonl"):
        data = (written / name).read_bytes()
        (written / name).write_bytes(data.replace(b"both hands", b"each hand!", 1))
        with pytest.raises(TrainingError, match=rf"{name}: its sha256 is not what dataset.json says"):
            load_dataset(written)
        (written / name).write_bytes(data)
    load_dataset(written)


def corrupt(written: Path, change: Callable[[str], str]) -> None:
    """Change train.jsonl and its checksum with it, as somebody who edits the file and the record would."""
    import hashlib

    text = change((written / "train.jsonl").read_text())
    (written / "train.jsonl").write_text(text)
    sha256 = hashlib.sha256(text.encode()).hexdigest()
    edit(written / RECORD, lambda record: record["files"]["train.jsonl"].update(sha256=sha256))


def test_a_corrupt_line_is_named(written: Path) -> None:
    corrupt(written, lambda text: text.replace("{", "", 1))
    with pytest.raises(FormatError, match=r"train\.jsonl, line 1"):
        load_dataset(written)


def test_a_torn_file_is_found(written: Path) -> None:
    corrupt(written, lambda text: text[:-40])
    with pytest.raises(FormatError, match=r"train\.jsonl, line \d+: not a sample"):
        load_dataset(written)


def test_a_lost_line_and_a_repeated_one_are_found(written: Path) -> None:
    first = (written / "train.jsonl").read_text()
    corrupt(written, lambda text: text.split("\n", 1)[1])
    with pytest.raises(TrainingError, match=r"29 samples, dataset\.json"):
        load_dataset(written)
    lines = first.split("\n")
    corrupt(written, lambda _: "\n".join([lines[0], *lines[0:1], *lines[2:]]))
    with pytest.raises(TrainingError, match="two samples are called"):
        load_dataset(written)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda r: r.update(format=2), "format 2, this masa reads 1"),
        (lambda r: r.update(prompt_version=0), "prompt version 0, this masa writes"),
        (lambda r: r.pop("name"), "not a record of a data set"),
        (lambda r: r.update(surplus=1), "not a record of a data set"),
        (lambda r: r.update(files={}), "missing 'train.jsonl'"),
        (lambda r: r["files"].update({"test.jsonl": {}}), "missing 'sha256'"),
        (lambda r: r.update(language="plan"), "is in the text language, not plan"),
    ],
)
def test_a_wrong_record_is_one_sentence(written: Path, change: Callable[[Any], object], said: str) -> None:
    edit(written / RECORD, change)
    with pytest.raises(TrainingError) as error:
        load_dataset(written)
    assert said in str(error.value) and "\n" not in str(error.value)


def test_missing_files_and_folders_are_one_sentence(written: Path, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"dataset\.json"):
        load_dataset(tmp_path / "nowhere")
    (written / "test.jsonl").unlink()
    with pytest.raises(FormatError, match=r"test\.jsonl: no such file"):
        load_dataset(written)
    for text in ("{", "[]", "3"):
        (written / RECORD).write_text(text)
        with pytest.raises(TrainingError, match="not a record of a data set"):
            load_dataset(written)


# --- writing ---------------------------------------------------------------------------------------


def test_an_existing_folder_is_refused_and_only_a_data_set_is_replaced_by_force(toy: Dataset, written: Path) -> None:
    with pytest.raises(TrainingError, match="folder, or --force"):
        write_dataset(written, toy, "")
    smaller = replace(toy, test=toy.test[:1])
    write_dataset(written, smaller, "", force=True)
    assert len(load_dataset(written).test) == 1
    other = written.parent / "precious"
    other.mkdir()
    (other / "thesis.txt").write_text("years of work")
    with pytest.raises(TrainingError, match=r"\(no dataset\.json"):
        write_dataset(other, toy, "", force=True)
    assert (other / "thesis.txt").read_text() == "years of work"
    assert {path.name for path in written.parent.iterdir()} == {"data", "precious"}


@pytest.mark.parametrize("fails_at", range(5))
def test_a_full_disk_at_any_file_leaves_nothing_new_and_the_old_untouched(
    toy: Dataset, written: Path, monkeypatch: pytest.MonkeyPatch, fails_at: int
) -> None:
    before = {file.name: file.read_bytes() for file in written.iterdir()}
    done = 0
    real = os.write

    def write(descriptor: int, data: Any) -> int:
        nonlocal done
        done += 1
        if done > fails_at:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(descriptor, data)

    monkeypatch.setattr(os, "write", write)
    for target, force in ((written, True), (written.parent / "new", False)):
        with pytest.raises(WriteError, match=r"no space left to write the data set"):
            write_dataset(target, replace(toy, test=toy.test[:1]), "a card", force=force)
        done = 0
    monkeypatch.undo()
    assert [path.name for path in written.parent.iterdir()] == ["data"]
    assert {file.name: file.read_bytes() for file in written.iterdir()} == before


@pytest.mark.parametrize("at", ["write", "swap"])
def test_a_kill_between_leaves_no_half_data_set(
    toy: Dataset, written: Path, monkeypatch: pytest.MonkeyPatch, at: str
) -> None:
    """Nothing that was started afterwards cleans up, as after kill -9: the temporary folder stays and harms nobody."""
    before = {file.name: file.read_bytes() for file in written.iterdir()}

    def killed(*args: object, **kwargs: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(folder_module, "write_atomic" if at == "write" else "_swap", killed)
    monkeypatch.setattr(folder_module.shutil, "rmtree", lambda *args, **kwargs: None)
    for target, force in ((written, True), (written.parent / "new", False)):
        with pytest.raises(KeyboardInterrupt):
            write_dataset(target, toy, "", force=force)
    monkeypatch.undo()
    assert {file.name: file.read_bytes() for file in written.iterdir()} == before
    assert not (written.parent / "new").exists()
    write_dataset(written.parent / "new", toy, data_card(toy))
    assert load_dataset(written.parent / "new") == toy


def test_a_failed_swap_puts_the_former_data_set_back(
    toy: Dataset, written: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Path.rename
    calls: list[Path] = []

    def rename(self: Path, target: Path) -> Path:
        calls.append(self)
        if len(calls) == 2:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return real(self, target)

    monkeypatch.setattr(Path, "rename", rename)
    with pytest.raises(MasaError, match="cannot be written"):
        write_dataset(written, replace(toy, test=()), "", force=True)
    monkeypatch.undo()
    assert load_dataset(written) == toy and [path.name for path in written.parent.iterdir()] == ["data"]


def test_every_line_is_one_json_object_with_the_messages_first(written: Path, toy: Dataset) -> None:
    lines = (written / "train.jsonl").read_text().splitlines()
    assert lines == [dumps_sample(sample) for sample in toy.train]
    assert list(json.loads(lines[0]))[:2] == ["id", "messages"]
