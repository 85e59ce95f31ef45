"""Without the extra alfworld: one sentence that says which package to install."""

from __future__ import annotations

import sys

import pytest

from masa.errors import MissingExtraError
from masa.extras import pip_install
from masa_training.environments import environment_names, open_environment


@pytest.mark.parametrize("environment", ["household", "alfworld"])
@pytest.mark.parametrize("gone", ["alfworld", "textworld", "fast_downward"])
def test_a_missing_package_of_the_extra_is_told(gone: str, environment: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(sys.modules):
        ours = name.startswith("masa_training.environments.") and name.rpartition(".")[2].startswith(
            ("household", "alfworld", "textworld")
        )
        if ours or name.partition(".")[0] == gone:
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, gone, None)
    assert environment in environment_names()
    with pytest.raises(MissingExtraError) as raised:
        open_environment(environment)
    told = f'the environment {environment} needs the extra "alfworld": {pip_install("alfworld")}'
    assert str(raised.value) == told
