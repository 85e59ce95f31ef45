"""Agents: what a backbone is told once, skills included, the turns that follow, and the action that its words mean.

A dialogue only ever grows at its end, unless `window` cuts old turns, so a model in process can keep what it computed.
Where the environment has tools, the model is told them, whatever the arm, and answers with calls of them. Skills then
stand at the beginning of the first turn: what precedes them is the same for all arms. An agent that writes is shown
them in the order of the bank, so that episodes of an arm and task type begin alike.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields, replace
from typing import Any

from masa.facts import ActionForm, Facts
from masa.retrieval import Selection, render, select
from masa.skills import Skill, SkillBank
from masa_training.environments import Step, Task
from masa_training.environments.tool_calls import read_call
from masa_training.errors import TrainingError
from masa_training.models import Message, Reply, Request
from masa_training.settings import Amount, Count, Positive, settings

GENERAL, SPECIFIC = 6, 5
"""Skills that are shown, as in the paper (arXiv 2605.30723)."""


@settings
class AgentConfig:
    """How an agent is asked.

    Attributes:
        general, specific: most general and task-specific skills it is shown.
        window: turns of its history it is shown; 0 shows all.
        choose: it chooses among the admissible actions where the environment lists them, instead of writing one.
        list_actions: when it writes, the admissible actions are listed in every turn.
        reason: it is asked to think before it acts.
        max_tokens: longest reply when it writes.
        temperature: 0 takes the likeliest.
        constrain: where the environment has tools, what it writes can be nothing but a call of one.
        drop_idle: of the admissible actions, those that changed nothing are not told again until another one did.
        give_up: an episode ends after so many turns in a row that changed nothing; 0 plays on to the step limit. A
            greedy model that repeats itself goes on repeating itself.
    """

    general: Count = GENERAL
    specific: Count = SPECIFIC
    window: Count = 0
    choose: bool = False
    list_actions: bool = True
    reason: bool = False
    max_tokens: Positive = 512
    temperature: Amount = 0.0
    constrain: bool = False
    drop_idle: bool = False
    give_up: Count = 0

    @classmethod
    def names(cls) -> tuple[str, ...]:
        return tuple(f.name for f in fields(cls))


def check_shown(bank: SkillBank | None, tasks: Iterable[Task], config: AgentConfig) -> None:
    """Refuse a bank of which nothing would be shown for a task: its arm would silently be the one without skills.

    Raises:
        TrainingError: if the bank has skills and a task gets none of them.
    """
    if bank is None or not len(bank) or (bank.general and config.general):
        return
    for task in tasks:
        specific = bank.task_specific.get(task.type, ())
        if specific and config.specific:
            continue
        advice = "give a bank with general skills or with some for this type; `masa check` compares SKILL.md folders"
        if specific or bank.general:
            advice = f"raise {'specific' if specific else 'general'} in the agent's settings"
        raise TrainingError(
            f"task {task.id}: none of the bank's skills is shown for the task type {task.type!r}; it has skills for "
            f"{', '.join(bank.task_specific) or 'no task type'}; {advice}"
        )


class Agent:
    """An agent for one environment and one skill bank, or none. It keeps no state between episodes."""

    def __init__(
        self,
        description: str,
        config: AgentConfig,
        *,
        bank: SkillBank | None = None,
        facts: Facts | None = None,
        always: bool = False,
        tools: Sequence[Mapping[str, Any]] = (),
    ) -> None:
        """`description`, `facts` and `tools` are the environment's.

        The facts are told `always`, or where nothing else tells what can be done: no tools, no admissible actions.
        """
        self._description = description
        self._tools = tuple(tools)
        self._config = config
        self._bank = bank
        self._facts = facts
        self._always = always

    def skills_for(self, task: Task) -> Selection | None:
        """The skills that the agent is shown for this task; None without a bank or with an empty one.

        Raises:
            TrainingError: if the bank has skills and none is shown: the arm would silently be the one without skills.
        """
        if self._bank is None or not len(self._bank):
            return None
        check_shown(self._bank, [task], self._config)
        known = task.type in self._bank.task_specific
        return select(
            self._bank,
            task.goal,
            task_type=task.type if known else None,
            general=self._config.general,
            specific=self._config.specific if known else 0,
        )

    def begin(self, task: Task, first: Step) -> Dialogue:
        """The dialogue of one episode, up to its first question."""
        selection = self.skills_for(task)
        tools = [tool for tool in self._tools if not task.tools or tool["function"]["name"] in task.tools]
        if selection and self._bank and not self._config.choose:
            order = {skill.skill_id: i for i, skill in enumerate(s for g in self._bank.groups() for s in g.skills)}
            general, specific = (
                tuple(sorted(some, key=lambda skill: order[skill.skill_id]))
                for some in (selection.general, selection.specific)
            )
            selection = replace(selection, general=general, specific=specific)
        if not tools:
            told = self._always or first.admissible is None
            return Dialogue(self._config, self._system(selection, told), task.goal, first, _ids(selection))
        lead = render(selection).strip() + "\n\n" if selection else ""
        system = self._system(None, self._always)
        return Dialogue(self._config, system, task.goal, first, _ids(selection), tuple(tools), lead)

    def _system(self, selection: Selection | None, told: bool) -> str:
        parts = [f"You act in {self._description}."]
        if self._facts and told:
            parts.append("What you can do:\n" + "\n".join(f"- {self._form(action)}" for action in self._facts.actions))
            parts.append("\n".join(self._facts.rules))
        if selection:
            parts.append(render(selection).strip())
        if self._tools:
            think = "Think first, then answer" if self._config.reason else "Answer"
            parts.append(f"{think} with one call of a tool{'' if self._config.reason else ' and nothing else'}.")
        elif self._config.choose:
            parts.append("Answer with one action and nothing else.")
        else:
            think = "Think first, then give" if self._config.reason else "Give"
            parts.append(f"{think} one action as <action>…</action>.")
        return "\n\n".join(part for part in parts if part)

    def _form(self, action: ActionForm) -> str:
        written = not (self._tools or self._config.choose)
        example = f"<action>{action.example}</action>" if written else action.example
        told = [action.meaning, f"as in {example}" if action.example else ""]
        return action.form + (f": {'; '.join(filter(None, told))}" if any(told) else "")


class Dialogue:
    """One episode as the backbone sees it."""

    def __init__(
        self,
        config: AgentConfig,
        system: str,
        goal: str,
        first: Step,
        skills: tuple[str, ...],
        tools: tuple[Mapping[str, Any], ...] = (),
        lead: str = "",
    ) -> None:
        """`skills` are the identifiers of those in `system` or in `lead`, with which the first turn begins."""
        self.skills = skills
        self._tools = tools
        self._config = config
        self._opening = (Message("system", system),)
        self._goal = goal
        self._lead = lead
        self._idle: set[str] = set()
        self._admissible = first.admissible
        self._turns: list[Message] = [self._first(self._told(first))]

    def request(self, seed: int) -> Request:
        """What to ask the model now; `seed` is for sampling."""
        return Request(
            messages=(*self._opening, *self._shown()),
            candidates=self._admissible if self._config.choose and self._admissible else None,
            max_tokens=self._config.max_tokens,
            temperature=self._config.temperature,
            seed=seed,
            tools=self._tools,
            constrain=self._config.constrain and bool(self._tools),
        )

    def action(self, reply: Reply) -> str:
        """The action that the reply means."""
        if self._config.choose and self._admissible:
            return reply.text
        if self._tools:
            return parse_call(reply.text)[0]
        return parse_action(reply.text, self._admissible)

    def answer(self, reply: Reply, action: str, step: Step) -> None:
        """Go on: the backbone replied, took `action`, and the environment answered with `step`."""
        self._idle = set() if step.changed else {*self._idle, action}
        self._admissible = step.admissible
        if self._config.drop_idle and step.admissible:
            # Where nothing would be left, all are.
            self._admissible = tuple(a for a in step.admissible if a not in self._idle) or step.admissible
        if self._tools and not self._config.choose:
            # What it wrote, in its own form; of several calls the first was taken.
            self._turns += [Message("assistant", parse_call(reply.text)[1]), Message("tool", self._told(step))]
            return
        said = reply.text if self._config.reason else action if self._config.choose else f"<action>{action}</action>"
        self._turns += [Message("assistant", said), Message("user", self._told(step))]

    def _told(self, step: Step) -> str:
        if self._config.choose or not self._config.list_actions or self._admissible is None:
            return step.observation
        return f"{step.observation}\n\nAdmissible actions: {'; '.join(self._admissible)}"

    def _shown(self) -> tuple[Message, ...]:
        """All turns, or the last `window`; the goal is repeated where its turn was cut."""
        window = self._config.window
        if not window or len(self._turns) <= 2 * window + 1:
            return tuple(self._turns)
        first, *rest = self._turns[-(2 * window + 1) :]
        return (self._first(first.content), *rest)

    def _first(self, told: str) -> Message:
        if self._tools:
            # The request comes last: a small model takes what stands nearest.
            return Message("user", f"{self._lead}{told}\n\nTask: {self._goal}", shared=len(self._lead))
        return Message("user", f"Task: {self._goal}\n\n{told}")


def _ids(selection: Selection | None) -> tuple[str, ...]:
    shown: tuple[Skill, ...] = (*selection.general, *selection.specific) if selection else ()
    return tuple(skill.skill_id for skill in shown)


_TAGGED = re.compile(r"<action>(.*?)(?:</action>|\Z)", re.DOTALL | re.IGNORECASE)
_NAMED = re.compile(r"^\W*(?:action|next action|command)\W*:\s*(.+)$", re.IGNORECASE | re.MULTILINE)
_WRAPPING = "`\"'*_<> \t\r\n"


def parse_action(text: str, admissible: Sequence[str] | None = None) -> str:
    """The action in free text; empty if there is none.

    In this order: the last `<action>…</action>` (an unclosed one counts, since a stop or a length limit may cut it),
    the last line that begins with "Action:", an admissible action that a line of the text is, the last line that is
    not empty. Quotes, Markdown and brackets `<>` around it are removed. Case and blanks follow the admissible action
    that it equals without them.
    """
    tagged = _TAGGED.findall(text)
    named = _NAMED.findall(text)
    lines = [line for line in (_bare(line) for line in text.splitlines()) if line]
    known = {_plain(action): action for action in admissible or ()}
    if tagged:
        found = _bare(tagged[-1])
    elif named:
        found = _bare(named[-1])
    else:
        listed = [line for line in lines if _plain(line) in known]
        found = (listed or lines or [""])[-1]
    first, *_ = found.splitlines() or [""]
    return known.get(_plain(first), first.strip())


def parse_call(text: str) -> tuple[str, str]:
    """The first call of a tool in free text, as the environment takes it, and the text up to its end.

    Without a call both are the text, of which the environment says that it is none.
    """
    found = read_call(text)
    if found is None:
        return text.strip(), text.strip()
    call, end = found
    return call.text, text[:end].strip()


def _bare(text: str) -> str:
    return text.strip(_WRAPPING)


def _plain(text: str) -> str:
    return " ".join(text.lower().split()).rstrip(".")
