"""A teacher's server without a model: it answers masa's questions over the OpenAI-compatible protocol by a fixed rule.

    python examples/scripted_teacher.py terse --port 8765
    masa evolve lookup-instrument-terse -o runs/scripted --teacher openai:http://localhost:8765/v1#terse

It names every failed episode it is shown, and rewrites every skill of the group in one style: `terse` leaves the
first step or sentence of each, `stepwise` numbers its sentences. After a refusal it leaves, or numbers, one piece more.
`card` takes the style that the reader's card asks for: `terse` where its weaknesses speak of numbers, steps or lists,
else `stepwise`. What a real model adds is judgement; what this shows is that the path from question to accepted edit
works, and what a perfectly obedient teacher would reach.
"""

from __future__ import annotations

import argparse
import json
import re
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

STYLES = ("terse", "stepwise", "card")
_STEP = re.compile(r"(?:^|\s)\d{1,2}\.\s+")
_SENTENCE = re.compile(r"(?<=[.!?])\s+|;\s+")


def answer(messages: list[dict[str, str]], style: str) -> str:
    """The text that goes back for a conversation; the first user message asks, later ones complain."""
    system, prompt = messages[0]["content"], messages[:2][-1]["content"]
    if style == "card":
        style = by_card(prompt)
    if system.startswith("You rewrite"):
        group = prompt.rpartition("The group at hand")[2].partition("\n\n")[2]
        more = prompt.count("Refused (") + len(messages) // 2 - 1
        return "\n\n".join(rewritten(block, style, more) for block in re.split(r"\n\n(?=## )", group.strip()))
    if system.startswith("You find out why"):
        numbers = [int(number) for number in re.findall(r"^Failed episode (\d+)", prompt, re.MULTILINE)]
        failures = [{"episode": number, "step": 1, "kind": "other", "cause": "It went astray."} for number in numbers]
        return json.dumps({"failures": failures, "advice": f"Word the skills {style}."})
    return "ok"


def by_card(prompt: str) -> str:
    """The style that the card in a prompt asks for."""
    card = prompt.partition("Model card of the reader")[2].partition("\n\n")[0]
    weaknesses = re.search(r"^weaknesses: (.*)$", card, re.MULTILINE)
    return "terse" if weaknesses and re.search(r"number|step|list", weaknesses[1]) else "stepwise"


def rewritten(block: str, style: str, more: int) -> str:
    """One skill (heading, condition, text) in the style; `more` pieces beyond the least."""
    heading, when, *lines = block.strip().split("\n")
    if not when.startswith("When"):
        when, lines = "", [when, *lines]
    pieces = [
        piece.strip() for part in _STEP.split(" ".join(lines)) for piece in _SENTENCE.split(part) if piece.strip()
    ]
    if style == "terse":
        text = " ".join(pieces[: 1 + more])
    else:
        steps = pieces if len(pieces) > 1 else [*pieces, "Then go on with the task."]
        steps += [f"Check it {n} times." for n in range(1, more + 1)]
        text = "\n".join(f"{number}. {step[0].upper()}{step[1:]}" for number, step in enumerate(steps, start=1))
    return "\n".join(line for line in (heading, when, text) if line)


class Handler(BaseHTTPRequestHandler):
    """`/v1/models` and `/v1/chat/completions`, as far as masa asks."""

    style = STYLES[0]

    def do_GET(self) -> None:
        self._send({"object": "list", "data": [{"id": self.style, "object": "model"}]})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        text = answer(body["messages"], self.style)
        read, wrote = sum(len(m["content"].split()) for m in body["messages"]), len(text.split())
        choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
        usage = {"prompt_tokens": read, "completion_tokens": wrote, "total_tokens": read + wrote}
        self._send({"id": "1", "object": "chat.completion", "model": self.style, "choices": [choice], "usage": usage})

    def log_message(self, format: str, *args: Any) -> None:
        """No line for every request."""

    def _send(self, content: dict[str, Any]) -> None:
        data = json.dumps(content).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("style", choices=STYLES)
    parser.add_argument("--port", type=int, default=8765)
    options = parser.parse_args()
    Handler.style = options.style
    server = ThreadingHTTPServer(("127.0.0.1", options.port), Handler)
    print(f"http://127.0.0.1:{server.server_port}/v1#{options.style}", flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
