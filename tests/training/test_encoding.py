"""What a plan's tokens could have been: the same that constrained decoding admits on the device."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from masa.constraint import Constraint
from masa.group_rewrite import prepare
from masa.prompt import Request
from masa.skills import Group, Skill
from masa_training.bases import open_base
from masa_training.encoding import encode_all
from masa_training.errors import TrainingError
from masa_training.samples import Sample
from tests.tiny_gguf import write_tiny_gguf

GROUP = Group(
    "clean",
    (
        Skill("c1", "Wash first", "Find the cup. Then wash it at the sink. Put it away when it is clean.", "cleaning"),
        Skill("c2", "One", "Look around.", "always"),
    ),
)


def sample(target: str) -> Sample:
    return Sample(
        id="s",
        request=Request(GROUP, {"family": "Tester", "weaknesses": "skips steps"}),
        language="plan",
        target=target,
        backbone="Tester",
        source="bootstrap",
        synthetic=True,
        origin="a test",
        tags={},
    )


@pytest.fixture(scope="module")
def base_path(smollm2: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_gguf(smollm2, tmp_path_factory.mktemp("base") / "tiny.gguf")


def test_admitted_tokens_are_those_of_constrained_decoding(base_path: Path) -> None:
    base = open_base(str(base_path))
    (plain,) = encode_all([sample("1 steps\n2 keep")], base, 2048)
    (encoded,) = encode_all([sample("1 steps\n2 keep")], base, 2048, constrained=True)
    assert plain == replace(encoded, admitted=())
    assert len(encoded.admitted) == len(encoded.target)
    work = prepare(encoded_request(), frozenset(), "plan")
    tokenizer = base.tokenizer().grammar_tokenizer()
    constraint = Constraint(tokenizer, work.grammar()[0])
    for token, admitted in zip(encoded.target, encoded.admitted, strict=True):
        assert token in admitted
        masked = constraint.mask(np.zeros(tokenizer.vocab_size, np.float32), [encoded.target[-1]])
        assert admitted == tuple(np.flatnonzero(np.isfinite(masked)).tolist())
        if token != encoded.target[-1]:
            constraint.advance(token)


def test_a_target_that_its_skills_do_not_admit_is_refused_by_its_id(base_path: Path) -> None:
    with pytest.raises(TrainingError, match="sample s: its target is no plan"):
        encode_all([sample("1 steps\n2 syntax")], open_base(str(base_path)), 2048, constrained=True)


def encoded_request() -> Request:
    return sample("").request
