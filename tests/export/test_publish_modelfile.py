"""A Modelfile asks as masa does, byte for byte, whatever stands in the chat template."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from masa.artifact import Artifact, load_artifact
from masa.prompt import INSTRUCTIONS
from masa_export.errors import ExportError
from masa_export.publish import modelfile as module
from masa_export.publish.modelfile import go_template, modelfile
from tests.runtime.artifact_samples import ADAPTER, write_artifact

from .ollama import parse_modelfile, render_chat
from .publish_samples import gguf_bytes

MESSAGES = [("Be brief.", "Look first."), ("", '"""{{ .Prompt }}`'), ("Größe\n", "<|im_end|>\r\n  x")]


def artifact(folder: Path, vocabulary: dict[str, Any] | None = None, **changes: Any) -> Artifact:
    folder.mkdir(exist_ok=True)
    files = {"weights.gguf": gguf_bytes(folder / "header", **(vocabulary or {"model": "gpt2"}))}
    if changes.get("adapter"):
        files[changes["adapter"]] = ADAPTER
    return load_artifact(write_artifact(folder, files, **changes), verify=False)


def asked(found: Artifact, system: str, user: str) -> str:
    """What masa asks for these two texts."""
    template = found.chat_template
    parts = (template.before_system, system, template.before_user, user, template.before_assistant)
    return "".join(part if isinstance(part, str) else "".join(s.text for s in part) for part in parts)


def test_the_template_renders_what_masa_asks(tmp_path: Path) -> None:
    found = artifact(tmp_path)
    values = dict(parse_modelfile(modelfile(found)))
    for system, user in MESSAGES:
        assert render_chat(values["TEMPLATE"], system, user) == asked(found, system, user)
    assert values["TEMPLATE"] == (
        "<|im_start|>system\n{{ .System }}<|im_end|>\n{{ .Prompt }}{{ .Response }}<|im_end|>"
    ), "nothing needs escaping here, so nothing is escaped"


@settings(max_examples=50, deadline=None)
@given(st.lists(st.text(st.sampled_from('{}"`.\n Aé<|>'), min_size=1, max_size=8), min_size=3, max_size=3))
@example(['"""', '""""""{{', '`""""'])
def test_braces_and_quotes_of_a_chat_template_stay_text(
    tmp_path_factory: pytest.TempPathFactory, texts: list[str]
) -> None:
    keys = ("before_system", "before_user", "before_assistant")
    template = {key: [[text, False]] for key, text in zip(keys, texts, strict=True)}
    found = artifact(tmp_path_factory.mktemp("a"), chat_template=template, stop=["<end>"])
    values = dict(parse_modelfile(modelfile(found)))
    for system, user in MESSAGES:
        assert render_chat(values["TEMPLATE"], system, user) == asked(found, system, user)


@pytest.mark.parametrize(
    ("vocabulary", "added"),
    [
        ({"model": "llama", "bos_token_id": 1, "add_bos_token": True}, True),
        ({"model": "llama", "bos_token_id": 1}, True),
        ({"model": "gpt2", "pre": "llama-bpe", "bos_token_id": 1}, True),
        ({"model": "gpt2", "pre": "smollm", "bos_token_id": 1}, False),
        ({"model": "llama", "bos_token_id": 1, "add_bos_token": False}, False),
        ({"model": "llama", "bos_token_id": 2, "add_bos_token": True}, False),
    ],
)
def test_a_bos_token_that_ollama_adds_by_itself_is_left_out(
    tmp_path: Path, vocabulary: dict[str, Any], added: bool
) -> None:
    template = {"before_system": [["<bos>", True], ["user\n", False]], "before_user": [], "before_assistant": []}
    found = artifact(tmp_path, vocabulary, chat_template=template, stop=["<end>"])
    rendered = render_chat(go_template(found), "s", "u")
    assert ("<bos>" if added else "") + rendered == asked(found, "s", "u")


def test_weights_adapter_stops_and_settings_are_named(tmp_path: Path) -> None:
    found = artifact(tmp_path, adapter="adapter-1.gguf", stop=["<|im_end|>", "a\nb", 'say "x" now'], chat_template={
        "before_system": [], "before_user": [], "before_assistant": []
    }, context_length=40960)  # fmt: skip
    values = parse_modelfile(modelfile(found))
    assert values[:2] == [("FROM", "./weights.gguf"), ("ADAPTER", "./adapter-1.gguf")]
    assert [value for name, value in values if name == "PARAMETER stop"] == list(found.stop)
    assert dict(values)["PARAMETER temperature"] == "0"
    assert dict(values)["PARAMETER num_ctx"] == "8192", "Ollama takes the memory of the whole context at once"
    assert dict(values)["SYSTEM"] == INSTRUCTIONS["plan"]
    short = artifact(tmp_path / "short", context_length=512)
    assert dict(parse_modelfile(modelfile(short)))["PARAMETER num_ctx"] == "512"


def test_what_a_modelfile_cannot_hold_costs_one_sentence() -> None:
    for text in ('"""', 'ends in "'):
        with pytest.raises(ExportError, match="cannot be written in a Modelfile"):
            module._quoted(text)
