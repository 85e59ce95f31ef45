"""The Modelfile of a GGUF artifact, for `ollama create`.

Ollama's TEMPLATE is a Go template over the system text and the user's text. It holds the fixed pieces of the
manifest's chat template, so that it renders a system and a user message to the bytes that masa asks with. What Ollama
cannot do is told in the model card: it tokenizes what a skill says together with the template, writes without a
grammar, and has no guard.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from masa.artifact import Artifact
from masa.formats.gguf_header import GgufHeader, read_header
from masa.prompt import INSTRUCTIONS, Segment
from masa_export.errors import ExportError

MODELFILE_NAME = "Modelfile"
MOST_CONTEXT = 8192
"""Tokens of context asked for at most: Ollama takes the memory for all of them when it loads the model."""

# llama.cpp's default where a GGUF does not say whether a text begins with the BOS token: yes for SentencePiece, and
# for those byte-pair vocabularies.
_BOS_BY_DEFAULT = ("llama-bpe", "llama3", "llama-v3", "falcon3")
# An opening brace might become part of an action, three quotes would end the text: both go in as raw strings of Go,
# quotes two at a time, because the Modelfile's parser sees them in there too.
_UNSAFE = re.compile(r'\{+|"{1,2}')


def modelfile(artifact: Artifact) -> str:
    """The Modelfile that lies beside the files of `artifact`.

    Raises:
        ExportError: if a text of the manifest cannot be written in one.
        FormatError: if the weights are no GGUF.
    """
    lines = [f"FROM ./{artifact.weights}"]
    if artifact.adapter is not None:
        lines.append(f"ADAPTER ./{artifact.adapter}")
    lines += [
        f'TEMPLATE """{go_template(artifact)}"""',
        f"SYSTEM {_quoted(INSTRUCTIONS[artifact.language])}",
        *(f"PARAMETER stop {_quoted(text)}" for text in artifact.stop),
        "PARAMETER temperature 0",
        f"PARAMETER num_ctx {min(artifact.context_length, MOST_CONTEXT)}",
    ]
    return "\n".join(lines) + "\n"


def go_template(artifact: Artifact) -> str:
    """The chat template as a Go template over .System, .Prompt and .Response.

    A BOS token at its beginning is left out where Ollama's tokenizer puts one there by itself.

    Raises:
        FormatError: if the weights are no GGUF.
    """
    template = artifact.chat_template
    before_system: Sequence[Segment] = template.before_system
    header = read_header(artifact.weights_path)
    if (
        before_system
        and before_system[0].control
        and adds_bos(header)
        and before_system[0].text == _bos(artifact, header)
    ):
        before_system = before_system[1:]
    # What stands behind the response is cut off where Ollama lets the model write.
    end = [Segment(text, True) for text in template.stop[:1]]
    return (
        f"{_literal(before_system)}{{{{ .System }}}}{_literal(template.before_user)}{{{{ .Prompt }}}}"
        f"{_literal(template.before_assistant)}{{{{ .Response }}}}{_literal(end)}"
    )


def adds_bos(header: GgufHeader) -> bool:
    """Whether llama.cpp, and so Ollama, puts the BOS token before every text."""
    told = header.metadata.get("tokenizer.ggml.add_bos_token")
    if isinstance(told, bool):
        return told
    return header.text("tokenizer.ggml.model") == "llama" or header.text("tokenizer.ggml.pre") in _BOS_BY_DEFAULT


def _bos(artifact: Artifact, header: GgufHeader) -> str | None:
    number = header.metadata.get("tokenizer.ggml.bos_token_id")
    if not isinstance(number, int):
        return None
    import gguf

    tokens = gguf.GGUFReader(artifact.weights_path).fields.get("tokenizer.ggml.tokens")
    return None if tokens is None else str(tokens.contents(number))


def _literal(segments: Sequence[Segment]) -> str:
    """Text of a Go template that renders to exactly this text."""
    return _UNSAFE.sub(lambda found: f"{{{{`{found[0]}`}}}}", "".join(segment.text for segment in segments))


def _quoted(text: str) -> str:
    """A value of a Modelfile, which knows no escapes."""
    if '"' not in text and "\n" not in text:
        return f'"{text}"'
    if '"""' in text or text.endswith('"'):
        raise ExportError(f"{text[:60]!r} cannot be written in a {MODELFILE_NAME}; package another type")
    return f'"""{text}"""'
