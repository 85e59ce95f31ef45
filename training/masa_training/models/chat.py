"""From a conversation to token ids, by the model's own chat template, message by message.

A message's text is tokenized apart from the template's pieces around it, and never as control tokens, so that an
`<|im_end|>` inside an observation stays a spelling, and a conversation that grows keeps the token ids it had.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from masa.backends.tokenizing import Tokenizer
from masa.chat_templates import TemplateError, compile_template
from masa.prompt import Segment
from masa_training.errors import TrainingError
from masa_training.models.protocol import Message

CHATML = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
GEMMA = (
    "{{ bos_token }}{% if messages[0].role == 'system' %}{% set first = messages[0].content + '\n\n' %}"
    "{% set turns = messages[1:] %}{% else %}{% set first = '' %}{% set turns = messages %}{% endif %}"
    "{% for message in turns %}<start_of_turn>{{ 'model' if message.role == 'assistant' else message.role }}\n"
    "{{ first if loop.first }}{{ message.content }}<end_of_turn>\n{% endfor %}"
    "{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)
TEMPLATES = {"chatml": CHATML, "gemma": GEMMA}
"""Chat templates by name, for a model that brings none."""

_MARK = re.compile("\u2983(\\d+)\u2984")


@dataclass(frozen=True, slots=True)
class Encoded:
    """A conversation as token ids.

    Attributes:
        borders: the lengths at which the conversation was asked for an answer before, first of all the ends of what
            other conversations share; the last is the whole. Models that choose compute from border to border, so that
            a conversation's numbers do not depend on what else a cache held.
        shared: the last border of what is shared, or 0.
    """

    tokens: tuple[int, ...]
    borders: tuple[int, ...]
    shared: int = 0


class ChatFormat:
    """A model's way to write conversations.

    `ends` are the tokens that end an answer, the first of them the one that the template writes; `stops` are texts
    that end one where no token does.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        template: str | None,
        *,
        bos: str | None = None,
        add_bos: bool = False,
        eos: str | None = None,
        options: Mapping[str, Any] | None = None,
        where: str = "the model",
    ) -> None:
        """Read a Jinja template, or use the plain format where it is None.

        The plain format is for base models: every message is a line `role: text`, and a line ends an answer.

        Args:
            bos, eos: the spellings of the tokens that begin and end a text; `add_bos` puts the first in front.
            options: what else the template reads, such as `enable_thinking`; that one is False by default.

        Raises:
            TrainingError: if the template is broken, or ends an answer with no special token and there is no `eos`.
        """
        self._tokenizer = tokenizer
        self._bos = bos
        self._add_bos = add_bos
        self._where = where
        self._values = {"enable_thinking": False, "tools": None, **(options or {})}
        controls = tokenizer.control_tokens()
        self._controls = frozenset(controls)
        self._split = _splitter(controls)
        try:
            self._render = None if template is None else compile_template(template)
        except TemplateError as error:
            raise TrainingError(
                f"{where}: its chat template is broken ({error}); "
                f"give another with the option `template` ({', '.join(TEMPLATES)})"
            ) from None
        self._values |= {"bos_token": bos or "", "eos_token": eos or ""}
        self._cached = functools.lru_cache(maxsize=4096)(lambda segment: tuple(tokenizer.tokenize([segment])))
        self._trimmed = self._trimming()
        self._knows_tools, self._knows_answers = self._knowing_tools()
        after = self._after_answer()
        named = [token for text in (*after, eos) if text and (token := tokenizer.token_id(text)) is not None]
        if self._render is None:
            self.ends: tuple[int, ...] = (*tokenizer.tokenize([Segment("\n")])[:1], *named)
            self.stops: tuple[str, ...] = ("\n",)
        else:
            self.ends, self.stops = tuple(dict.fromkeys(named)), ()
        if not self.ends:
            raise TrainingError(
                f"{where}: its chat template ends an answer with no special token; "
                f"give another with the option `template` ({', '.join(TEMPLATES)})"
            )

    def encode(self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]] = ()) -> Encoded:
        """The prompt for the next assistant turn.

        Tools are told as the template tells them, else behind the system message, a line of JSON each. Where the
        template knows no messages of the role "tool", these are the user's.

        Raises:
            TrainingError: if the template refuses the conversation.
        """
        if not messages:
            raise TrainingError("a conversation without messages; give at least one")
        if not self._knows_answers:
            messages = [Message("user", m.content) if m.role == "tool" else m for m in messages]
        if tools and not self._knows_tools:
            messages, tools = _with_tools(messages, tools), ()
        first = next((i for i, message in enumerate(messages) if message.role != "system"), len(messages))
        tokens: list[int] = []
        borders: list[int] = []
        shared = 0
        for segment, number in self._segments(messages, tools):
            # An answer begins where it was asked for; what precedes the first message is common to many episodes.
            if number is not None and tokens and (number == first or messages[number].role == "assistant"):
                borders.append(len(tokens))
                shared = shared or len(tokens)
            head, rest = ("", segment) if number is None else _parted(segment, messages[number])
            if head:
                tokens += self._cached(Segment(head))
                borders.append(len(tokens))
                shared = len(tokens)
            tokens += self._cached(rest)
        if self._add_bos and self._bos is not None:
            begin = self._tokenizer.token_id(self._bos)
            if begin is not None and tokens[:1] != [begin]:
                tokens.insert(0, begin)
                borders = [border + 1 for border in borders]
                shared += bool(shared)
        return Encoded(tuple(tokens), tuple(sorted({*borders, len(tokens)})), shared)

    def answer(self, text: str) -> tuple[int, ...]:
        """Token ids of an answer, without the token that ends it."""
        return self._cached(Segment(text if self._render is not None else f" {text}"))

    def _segments(
        self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]]
    ) -> list[tuple[Segment, int | None]]:
        """Pieces of the prompt, each with the number of the message whose text it is."""
        if self._render is None:
            return self._plain(messages)
        shown = [{"role": m.role, "content": f"\u2983{i}\u2984"} for i, m in enumerate(messages)]
        rendered = self._rendered(shown, generate=True, tools=tools)
        pieces: list[tuple[Segment, int | None]] = []
        for i, piece in enumerate(_MARK.split(rendered)):
            if i % 2:
                message = messages[int(piece)]
                text = message.content.strip() if message.role in self._trimmed else message.content
                pieces.append((Segment(text), int(piece)))
            else:
                pieces += ((segment, None) for segment in self._split(piece))
        return [(segment, number) for segment, number in pieces if segment.text or number is not None]

    def _plain(self, messages: Sequence[Message]) -> list[tuple[Segment, int | None]]:
        pieces: list[tuple[Segment, int | None]] = []
        for i, message in enumerate(messages):
            pieces += [
                (Segment(f"{message.role}:"), None),
                (Segment(f" {message.content.strip()}"), i),
                (Segment("\n"), None),
            ]
        return [*pieces, (Segment("assistant:"), None)]

    def _rendered(
        self, messages: list[dict[str, str]], *, generate: bool, tools: Sequence[Mapping[str, Any]] = ()
    ) -> str:
        assert self._render is not None
        values = {**self._values, "tools": list(tools)} if tools else self._values
        try:
            return self._render(messages=messages, add_generation_prompt=generate, **values)
        except TemplateError as error:
            if messages[0]["role"] == "system" and len(messages) > 1 and messages[1]["role"] == "user":
                # Templates without a system message: its text goes in front of the user's.
                joined = f"{messages[0]['content']}\n\n{messages[1]['content']}"
                return self._rendered(
                    [{"role": "user", "content": joined}, *messages[2:]], generate=generate, tools=tools
                )
            raise TrainingError(f"{self._where}: its chat template refuses this conversation ({error})") from None

    def _trimming(self) -> frozenset[str]:
        """The roles whose texts the template trims."""
        if self._render is None:
            return frozenset()
        roles = ("system", "user", "assistant")
        turns = [{"role": role, "content": f"\n \u2983{i}\u2984 \n"} for i, role in enumerate(roles)]
        text = self._rendered(turns, generate=False)
        return frozenset(role for role, turn in zip(roles, turns, strict=True) if turn["content"] not in text)

    def _knowing_tools(self) -> tuple[bool, bool]:
        """Whether the template tells tools, and whether it knows messages of the role "tool"."""
        if self._render is None:
            return False, False
        tool = {"name": "\u29830\u2984", "description": "", "parameters": {"type": "object", "properties": {}}}
        asked = [{"role": "system", "content": "s"}, {"role": "user", "content": "u"}]
        answered = [*asked, {"role": "assistant", "content": "a"}, {"role": "tool", "content": "\u29831\u2984"}]
        try:
            told = self._rendered(asked, generate=True, tools=[{"type": "function", "function": tool}])
            shown = self._rendered(answered, generate=True)
        except TrainingError:
            return False, False
        known = "\u29830\u2984" in told
        # A template that tells no tools writes "tool" as the name of any role, which its model never saw.
        return known, known and "\u29831\u2984" in shown

    def _after_answer(self) -> tuple[str, ...]:
        """The first special token after an assistant's text, if any."""
        if self._render is None:
            return ()
        mark = "\u29830\u2984"
        turns = [{"role": "user", "content": "?"}, {"role": "assistant", "content": mark}]
        ending = self._rendered(turns, generate=False).rpartition(mark)[2]
        return tuple(segment.text for segment in self._split(ending) if segment.control)[:1]


def _parted(segment: Segment, message: Message) -> tuple[str, Segment]:
    """A message's text in two: what it shares with other conversations, and the rest."""
    head = message.content[: message.shared].strip()
    end = segment.text.find(head) + len(head)
    return (
        (segment.text[:end], Segment(segment.text[end:])) if 0 < len(head) <= end < len(segment.text) else ("", segment)
    )


def _with_tools(messages: Sequence[Message], tools: Sequence[Mapping[str, Any]]) -> list[Message]:
    """The conversation with the tools behind its system message."""
    told = "\n".join(json.dumps(tool.get("function", tool), ensure_ascii=False) for tool in tools)
    text = f'Tools:\n{told}\n\nCall one as JSON: {{"name": <tool>, "arguments": {{…}}}}'
    if messages[0].role == "system":
        return [Message("system", f"{messages[0].content}\n\n{text}"), *messages[1:]]
    return [Message("system", text), *messages]


def _splitter(controls: Sequence[str]) -> Callable[[str], list[Segment]]:
    known = frozenset(controls)
    if not known:
        return lambda text: [Segment(text)] if text else []
    pattern = re.compile("(" + "|".join(re.escape(c) for c in sorted(known, key=len, reverse=True)) + ")")
    return lambda text: [Segment(piece, piece in known) for piece in pattern.split(text) if piece]
