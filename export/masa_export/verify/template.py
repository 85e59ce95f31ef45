"""Is the checkpoint asked as it was trained to be? Language, prompt version and chat template, to the byte.

Two templates are looked at. masa asks by the fixed pieces in the manifest. Other programs (Ollama, llama.cpp's server)
use the Jinja template in the file, which a device may be served by: where the base has one, the artifact must have
one that renders the same bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from masa.artifact import Artifact
from masa.chat_templates import TemplateError, compile_template, stored_template
from masa.prompt import ChatTemplate, Segment
from masa_export.errors import ExportError
from masa_export.verify.checkpoint import Reference

_MESSAGES = (
    ("Be brief.", "Look first, then act."),
    ("", "  blanks around  \n"),
    ("Größe 把苹果 🧑\u200d🚀", "<|im_end|>\n<end_of_turn>{{ user }}{% raw %}"),
)


@dataclass(frozen=True, slots=True)
class Template:
    """What came of it.

    Attributes:
        conversations: how many were rendered by both.
        jinja: whether Jinja templates were among what was compared.
        problems: every difference, a sentence each.
    """

    conversations: int
    jinja: bool
    problems: tuple[str, ...]


def compare_template(artifact: Artifact, reference: Reference, messages: Sequence[tuple[str, str]]) -> Template:
    """Compare how artifact and checkpoint put (system, user) messages into a prompt; some are added to `messages`."""
    conversations = (*_MESSAGES, *messages)
    ours = artifact.chat_template
    problems = []
    if reference.language is not None and artifact.language != reference.language:
        problems.append(f"writes the language {artifact.language}, the checkpoint {reference.language}")
    if reference.prompt_version is not None and artifact.prompt_version != reference.prompt_version:
        problems.append(f"has prompt version {artifact.prompt_version}, the checkpoint {reference.prompt_version}")
    if not ours.stop:
        problems.append("its manifest names no text that ends an answer")
    elif reference.template is not None and ours.stop != reference.template.stop:
        problems.append(f"ends an answer with {list(ours.stop)}, the checkpoint with {list(reference.template.stop)}")
    if reference.template is not None:
        different = [m for m in conversations if _pieces(ours, m) != _pieces(reference.template, m)]
        if different:
            problems.append(f"its manifest renders {len(different)} of {len(conversations)} conversations differently")
    compared = False
    theirs = stored_template(reference.base.path)
    if theirs is not None:
        mine = stored_template(artifact.weights_path if artifact.kind == "gguf" else artifact.path)
        if mine is not None:
            compared = True
            problems += _compare_jinja(mine, theirs, conversations)
        elif artifact.kind == "gguf":
            problems.append("its weights hold no chat template (tokenizer.chat_template), the base does")
        if reference.template is None:
            compared = True
            problems += _compare_with_pieces(ours, theirs, conversations)
    return Template(len(conversations), compared, tuple(problems))


def _pieces(template: ChatTemplate, message: tuple[str, str]) -> list[Segment]:
    """The prompt in the segments that are tokenized one by one: where a text is cut changes its tokens."""
    system, user = message
    segments = (*template.before_system, Segment(system), *template.before_user, Segment(user))
    return [segment for segment in (*segments, *template.before_assistant) if segment.text]


def _compare_jinja(mine: str, theirs: str, conversations: Sequence[tuple[str, str]]) -> list[str]:
    if mine == theirs:
        return []
    try:
        different = [m for m in conversations if _render(mine, m) != _render(theirs, m)]
    except ExportError as error:
        return [str(error)]
    if not different:
        return []
    return [f"its own chat template renders {len(different)} of {len(conversations)} conversations differently"]


def _compare_with_pieces(ours: ChatTemplate, jinja: str, conversations: Sequence[tuple[str, str]]) -> list[str]:
    different = 0
    for message in conversations:
        try:
            rendered = _render(jinja, message)
        except ExportError:
            continue  # a template may refuse a message; that is the same on every device
        different += rendered != "".join(segment.text for segment in _pieces(ours, message))
    if not different:
        return []
    return [f"its manifest asks otherwise than the checkpoint's chat template in {different} of {len(conversations)}"]


def _render(source: str, message: tuple[str, str]) -> str:
    system, user = message
    content: dict[str, Any] = {
        "messages": [{"role": "system", "content": system}, {"role": "user", "content": user}],
        "bos_token": "",
        "eos_token": "",
        "tools": None,
        "enable_thinking": False,
        "add_generation_prompt": True,
    }
    try:
        return compile_template(source)(**content)
    except TemplateError as error:
        raise ExportError(f"a chat template cannot be rendered ({error})") from None
