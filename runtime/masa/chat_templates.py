"""Chat templates: Jinja in the dialect of Hugging Face's `apply_chat_template`, read from a model and rendered.

Needs Jinja2, which the extras `training` and `export` bring; the rewriter itself is asked by the fixed pieces in its
manifest (`masa.prompt`) and needs none of this.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from masa.errors import FormatError, MasaError, MissingExtraError

if TYPE_CHECKING:
    from jinja2.sandbox import ImmutableSandboxedEnvironment

Render = Callable[..., str]


class TemplateError(MasaError):
    """A chat template is broken or refuses a conversation; the message is half a sentence on one line."""

    def __init__(self, reason: object) -> None:
        super().__init__(" ".join(str(reason).split())[:150] or type(reason).__name__)


def compile_template(source: str) -> Render:
    """A function that renders the template `source` with the variables it is given, in a sandbox.

    The dialect is that of transformers 5 (`utils/chat_template_utils.py`): blocks are trimmed, `{% generation %}` marks
    render as what they hold, `{% break %}` and `{% continue %}` work, `tojson` escapes no HTML and takes `indent`,
    `separators`, `ensure_ascii` and `sort_keys`, and there are `raise_exception` and `strftime_now`.

    Raises:
        TemplateError: if the source is no template; the returned function raises it, too, whatever goes wrong.
        MissingExtraError: without Jinja2.
    """
    environment = _environment()
    try:
        template = environment.from_string(source)
    except Exception as error:  # beside jinja2's own, a deeply nested template ends in RecursionError or MemoryError
        raise TemplateError(error) from None

    def render(**values: Any) -> str:
        try:
            return template.render(**values)
        except Exception as error:  # a template raises whatever its filters raise
            raise TemplateError(error) from None

    return render


def stored_template(path: Path) -> str | None:
    """The source of the chat template that a GGUF file or a Hugging Face folder carries; None where it has none.

    A folder may keep it in `chat_template.jinja`, in `chat_template.json`, or in `tokenizer_config.json`, there also as
    a list of named templates, of which `default` is meant.

    Raises:
        FormatError: if the GGUF file, or the file that holds the template, cannot be read.
    """
    if not path.is_dir():
        from masa.formats.gguf_header import read_header

        found = read_header(path).metadata.get("tokenizer.chat_template")
        return found if isinstance(found, str) and found.strip() else None
    from masa.files import ParseError, parse_json, read_text

    if (path / "chat_template.jinja").is_file():
        return read_text(path / "chat_template.jinja")
    for name in ("chat_template.json", "tokenizer_config.json"):
        if not (path / name).is_file():
            continue
        try:
            content = parse_json(read_text(path / name))
        except ParseError as error:
            raise FormatError(f"{path / name}: not valid JSON ({error}); give a complete Hugging Face folder") from None
        stored = content.get("chat_template") if isinstance(content, dict) else None
        if isinstance(stored, list):
            named = {item.get("name"): item.get("template") for item in stored if isinstance(item, dict)}
            stored = named.get("default")
        if isinstance(stored, str) and stored.strip():
            return stored
    return None


@functools.cache
def _environment() -> ImmutableSandboxedEnvironment:
    try:
        from jinja2 import nodes
        from jinja2.ext import Extension
        from jinja2.sandbox import ImmutableSandboxedEnvironment
    except ImportError:
        raise MissingExtraError("a chat template", "training") from None

    class GenerationMarks(Extension):
        """`{% generation %}…{% endgeneration %}`, by which trainers find the assistant's tokens: just its content."""

        tags = {"generation"}  # noqa: RUF012 - as jinja2 declares it

        def parse(self, parser: Any) -> list[nodes.Node]:
            next(parser.stream)
            content: list[nodes.Node] = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            return content

    def refuse(message: object = "") -> None:
        raise TemplateError(message)

    def to_json(
        value: Any,
        ensure_ascii: bool = False,
        indent: int | str | None = None,
        separators: tuple[str, str] | None = None,
        sort_keys: bool = False,
    ) -> str:
        return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[GenerationMarks, "jinja2.ext.loopcontrols"]
    )
    environment.filters["tojson"] = to_json
    environment.globals["raise_exception"] = refuse
    environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
    return environment
