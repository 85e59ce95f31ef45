"""Ranges and extras are read from the distribution's metadata as pip reads them."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from masa import extras


@pytest.mark.parametrize("editable", [True, False])
def test_an_extra_is_installed_in_the_way_that_masa_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, editable: bool
) -> None:
    clone = tmp_path / "a clone"
    clone.mkdir()
    told: dict[str, object] = {"url": clone.as_uri(), "dir_info": {"editable": True} if editable else {}}
    found = SimpleNamespace(read_text=lambda name: json.dumps(told))
    monkeypatch.setattr("importlib.metadata.distribution", lambda name: found)
    how = "pip install -e" if editable else "pip install"
    assert extras.pip_install("llama") == f'{how} "{clone}[llama]"'
    monkeypatch.chdir(clone)
    assert extras.pip_install("llama") == f'{how} ".[llama]"' and extras.pip_install() == f'{how} "."'
    monkeypatch.chdir(tmp_path)
    clone.rmdir()
    assert extras.pip_install("llama") == 'pip install "masa-skills[llama]"', "the folder is gone"


def test_what_came_from_an_index_is_installed_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.metadata.distribution", lambda name: SimpleNamespace(read_text=lambda name: None))
    assert extras.pip_install("llama") == 'pip install "masa-skills[llama]"'


@pytest.mark.parametrize(
    ("version", "specifiers", "expected"),
    [
        ("0.3.36", ">=0.3.36,<0.3.37", True),
        ("0.3.37", ">=0.3.36,<0.3.37", False),
        ("0.3.4", ">=0.3.36,<0.3.37", False),
        ("0.3.36.post1", "<0.3.37,>=0.3.36", True),
        ("1.10", ">=1.9,<2", True),
        ("2.0", "<2", False),
        ("2", ">=2.0.0", True),
        ("1.0", "==1", True),
        ("1.0", "!=1.0.0", False),
        ("anything", "", True),
    ],
)
def test_ranges(version: str, specifiers: str, expected: bool) -> None:
    assert extras.in_range(version, specifiers) is expected


def test_ranges_agree_with_packaging() -> None:
    specifiers = pytest.importorskip("packaging.specifiers")
    for text in (">=1.9,<2", ">=0.3.36,<0.3.37", "!=1.5", ">1,<=1.9", "==2.1"):
        for version in ("0.3.36", "0.3.37", "1", "1.5.0", "1.9", "1.10", "2", "2.1", "10.0.1"):
            assert extras.in_range(version, text) == specifiers.SpecifierSet(text).contains(version), (
                version,
                text,
            )


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("click<9,>=8.1", extras.Requirement("click", "<9,>=8.1", "")),
        ("llguidance<2,>=1.9; extra == 'llama'", extras.Requirement("llguidance", "<2,>=1.9", "llama")),
        ('textworld[pddl]>=1.7; extra == "alfworld"', extras.Requirement("textworld", ">=1.7", "alfworld")),
        ("types-pyyaml; extra == 'dev'", extras.Requirement("types-pyyaml", "", "dev")),
    ],
)
def test_lines_of_the_metadata(line: str, expected: extras.Requirement) -> None:
    assert extras._parse(line) == expected


def test_what_is_not_installed_is_found_missing() -> None:
    need = extras.Requirement("no-such-distribution-of-anyone", ">=1", "x")
    assert extras.find(need) == extras.Found(need, None)
    assert not extras.find(need).fits


def test_the_installed_distribution_states_a_range_for_llama_cpp_python() -> None:
    needs = extras.requirements()
    if not needs:
        pytest.skip("masa runs from its source without being installed")
    found = [need for need in needs if need.name == "llama-cpp-python"]
    assert "llama" in {need.extra for need in found}
    (stated,) = {need.range for need in found}
    assert "<" in stated and ">=" in stated, "one range, whichever extra asks for it"
