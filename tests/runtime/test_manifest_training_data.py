"""What a manifest may tell about the data a rewriter was trained on."""

from __future__ import annotations

import json
from typing import Any

import pytest
from artifact_samples import manifest

from masa.errors import ArtifactError
from masa.manifest import Manifest, TrainingData, parse_manifest


def parsed(**training_data: Any) -> Manifest:
    content = manifest(training_data={"summary": "none", "trained": True, **training_data})
    return parse_manifest(json.dumps(content).encode(), "manifest.json")


def test_a_manifest_of_before_says_nothing_about_its_data() -> None:
    assert parsed().training_data == TrainingData(None, None, None, ())


def test_data_set_origin_and_hold_outs_are_read() -> None:
    told = {"dataset": "bootstrap", "dataset_sha256": "a" * 64, "synthetic": True, "held_out": ["wordings", "skills"]}
    assert parsed(**told).training_data == TrainingData("bootstrap", "a" * 64, True, ("wordings", "skills"))
    assert parsed(licence="CC0-1.0").training_data.licence == "CC0-1.0"
    assert parsed(**told).fingerprint != parsed().fingerprint


@pytest.mark.parametrize(
    ("key", "value", "wanted"),
    [
        ("synthetic", "yes", '"training_data.synthetic" is "yes"; it must be true or false'),
        ("synthetic", None, '"training_data.synthetic" is null'),
        ("dataset_sha256", "12", '"training_data.dataset_sha256" is "12"; it must be 64 lower-case hexadecimal'),
        ("dataset", " ", '"training_data.dataset" is " "; it must be a non-empty string'),
        ("held_out", "skills", '"training_data.held_out" is "skills"; it must be a list'),
        ("heldout", ["x"], 'unknown key "training_data.heldout"; did you mean "held_out"?'),
    ],
)
def test_a_wrong_value_is_told_by_its_key(key: str, value: object, wanted: str) -> None:
    with pytest.raises(ArtifactError) as caught:
        parsed(**{key: value})
    assert wanted in str(caught.value)
