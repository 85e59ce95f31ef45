"""Episodes of games on TextWorld's engine, in the terms of the environment protocol."""

from __future__ import annotations

from masa_training.environments.protocol import Step
from masa_training.environments.textworld_engine import NOTHING, Answer, Engine, Game


class GameEpisodes:
    """One episode at a time.

    An action counts as a change when it changed the world, or when it answered something that the agent had not read
    before in this episode. So `look` changes nothing where nothing is new, nor does examining what was just opened.
    """

    def __init__(self) -> None:
        self._engine = Engine()
        self._read: list[str] = []
        self._last: Step | None = None

    def begin(self, game: Game) -> Step:
        """Start the game; the observation is what the agent sees around it."""
        self._read = []
        return self._keep(self._engine.start(game))

    def act(self, action: str) -> Step:
        """Take an action; after the end nothing happens any more.

        Raises:
            RuntimeError: if no episode was begun.
        """
        if self._last is None:
            raise RuntimeError("step before reset")
        if self._last.done:
            return Step(NOTHING, 1.0, True, True, changed=False, valid=False, admissible=self._last.admissible)
        return self._keep(self._engine.act(action))

    def close(self) -> None:
        """Release the engine; another episode may still be begun."""
        self._engine.close()
        self._last = None

    def _keep(self, answer: Answer) -> Step:
        text = answer.text.strip()
        changed = answer.valid and (answer.moved or not any(text in earlier for earlier in self._read))
        if answer.valid:
            self._read.append(text)
        self._last = Step(
            observation=text,
            reward=float(answer.won),
            done=answer.won,
            success=answer.won,
            changed=changed,
            valid=answer.valid,
            admissible=answer.commands,
        )
        return self._last
