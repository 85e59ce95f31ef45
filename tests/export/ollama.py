"""What Ollama does with a Modelfile, as far as ours need it: its parser, and Go templates without conditions.

Written after the documents of both (docs/modelfile of ollama, pkg.go.dev/text/template): a value in three
quotes is taken as it is up to the next three; an action is `{{ .Field }}` or a raw string in backquotes.
"""

from __future__ import annotations

import re


def parse_modelfile(text: str) -> list[tuple[str, str]]:
    """(instruction, value) in order; a parameter's instruction is "PARAMETER name"."""
    found = []
    while text.strip():
        text = text.lstrip()
        head = re.match(r"PARAMETER +\w+|[A-Z]+", text)
        assert head, text[:40]
        text = text[head.end() :].lstrip(" ")
        if text.startswith('"""'):
            end = text.index('"""', 3)
            value, text = text[3:end], text[end + 3 :]
        else:
            value, _, text = text.partition("\n")
            value = value.strip()
            if value.startswith('"'):
                assert value.endswith('"') and len(value) > 1
                value = value[1:-1]
        found.append((re.sub(" +", " ", head[0]), value))
    return found


def render(template: str, **fields: str) -> str:
    """A Go template with these fields; anything but text, a field and a raw string is refused."""
    out, rest = "", template
    while "{{" in rest:
        before, _, rest = rest.partition("{{")
        out += before
        raw = re.match(r"\s*`([^`]*)`\s*\}\}", rest)
        field = re.match(r"\s*\.([A-Z]\w*)\s*\}\}", rest)
        match = raw or field
        assert match, f"not an action of the subset: {{{{{rest[:40]}"
        out += match[1] if raw else fields[match[1]]
        rest = rest[match.end() :]
    return out + rest


def render_chat(template: str, system: str, user: str) -> str:
    """What Ollama asks: the template up to the response, which the model is to write."""
    mark = "\0response\0"
    return render(template, System=system, Prompt=user, Response=mark).partition(mark)[0]
