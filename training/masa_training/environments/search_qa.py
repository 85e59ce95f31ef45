"""The environment `search_qa`: open questions, answered by searching a corpus of passages."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, get_args

from masa.facts import ActionForm, Facts
from masa_training.environments.answer_matching import match
from masa_training.environments.protocol import Split, Step, Task
from masa_training.environments.search_qa_data import DataSet, load_data_set, split_of
from masa_training.errors import TrainingError

Metric = Literal["exact", "cover"]
METRICS: tuple[Metric, ...] = get_args(Metric)

_TYPES = ("direct_retrieval", "entity_attribute_lookup", "multi_hop_reasoning", "comparison")
# What the published data sets ask, as skill banks name it. A question whose type they do not state has the first one.
_TYPES_OF: Mapping[str, tuple[str, ...]] = {
    "nq": ("direct_retrieval",),
    "triviaqa": ("direct_retrieval",),
    "popqa": ("entity_attribute_lookup",),
    "hotpotqa": ("multi_hop_reasoning", "comparison"),
    "2wikimultihopqa": ("multi_hop_reasoning", "comparison"),
    "musique": ("multi_hop_reasoning",),
    "bamboogle": ("multi_hop_reasoning",),
}


class SearchQa:
    """Question answering over a data set in the layout questions.jsonl and corpus.jsonl.

    `search QUERY` shows the best passages by BM25, `answer TEXT` ends the episode. Success is an exact match with one
    of the right answers, or with metric "cover" that the answer contains one; the reward is 1 on success and else F1.
    With "cover" a long answer has more chances: it can be compared with published figures, but it can be gamed.

    There are no admissible actions, for the text is free, and an episode's seed changes nothing.
    """

    name = "search_qa"
    description = "a corpus of encyclopedia passages that can be searched by words"

    def __init__(
        self,
        *,
        data_set: str = "nq",
        data_dir: str | None = None,
        passages: int = 3,
        max_steps: int = 5,
        metric: str = "exact",
        in_own_passages: bool = False,
    ) -> None:
        """A search shows at most `passages` passages.

        `data_dir` (or the environment variable MASA_DATA) is the folder that holds searchqa/DATA_SET. With
        `in_own_passages` only questions count whose answer is known to stand in the corpus, by their flag
        answer_in_own_passages.

        Raises:
            TrainingError: for an option out of its range.
        """
        if metric not in METRICS:
            raise TrainingError(f"search_qa: no metric {metric!r}; there are {', '.join(METRICS)}")
        for option, value in (("passages", passages), ("max_steps", max_steps)):
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise TrainingError(f"search_qa: {option} is {value!r}; give a whole number of at least 1")
        if not data_set or Path(data_set).name != data_set:
            raise TrainingError(f"search_qa: data_set is {data_set!r}; give the name of a folder, such as nq")
        self.task_types = _TYPES_OF.get(data_set.lower(), _TYPES)
        self.max_steps = max_steps
        self._data_set, self._data_dir = data_set, data_dir
        self._passages, self._metric, self._own = passages, metric, in_own_passages
        self._task: Task | None = None
        self._read: set[int] = set()
        self._last = Step("")

    def tasks(self, split: Split) -> Sequence[Task]:
        """The questions that a stable hash of their ids puts into the split: 60 % train, 20 % val, 20 % test."""
        data = self._data()
        if self._own and all(question.in_own_passages is None for question in data.questions):
            raise TrainingError(
                f"search_qa: the data set {self._data_set} does not say whether an answer is in reach; leave "
                "in_own_passages out"
            )
        return [
            Task(
                id=f"{self._data_set}/{question.id}",
                type=question.type if question.type in self.task_types else self.task_types[0],
                goal=question.text,
                split=split,
                payload={"answers": list(question.answers)},
            )
            for question in data.questions
            if split_of(question.id) == split and (question.in_own_passages is True or not self._own)
        ]

    def facts(self) -> Facts:
        """The two actions, and the rules that follow from the options."""
        form = "be the words asked for, nothing more" if self._metric == "exact" else "contain the words asked for"
        return Facts(
            environment=self.name,
            actions=(
                ActionForm(
                    "search {query}",
                    f"shows up to {self._passages} passages that share words with the query",
                    "search Amazon river length",
                ),
                ActionForm("answer {text}", "gives the final answer and ends the episode", "answer 6,400 km"),
            ),
            rules=(
                "A search is by words: it finds what is spelt alike, and the same query finds the same passages.",
                f"The first answer counts; it must {form}.",
                f"An episode ends after {self.max_steps} actions.",
            ),
        )

    def reset(self, task: Task, seed: int) -> Step:
        """Begin with nothing read."""
        if not task.payload.get("answers"):
            raise TrainingError(f"search_qa: task {task.id} has no answers; take tasks from this environment")
        self._data()
        self._task, self._read = task, set()
        self._last = Step("Nothing read yet.")
        return self._last

    def step(self, action: str) -> Step:
        """Search or answer."""
        if self._task is None:
            raise RuntimeError("step before reset")
        last = self._last
        if last.done:
            return Step("The episode has ended.", last.reward, True, last.success, changed=False, valid=False)
        verb, _, rest = action.strip().partition(" ")
        text = " ".join(rest.split())
        if verb.lower() == "search" and text:
            self._last = self._search(text)
        elif verb.lower() == "answer" and text:
            self._last = self._answer(text, self._task)
        else:
            return Step("Not understood. Use search QUERY or answer TEXT.", changed=False, valid=False)
        return self._last

    def solution(self, task: Task, seed: int) -> Sequence[str]:
        """One search for the question, then a right answer: the passages need not hold it."""
        return [f"search {task.goal}", f"answer {task.payload['answers'][0]}"]

    def close(self) -> None:
        """Forget the episode; the index stays for others of this process."""
        self._task = None

    def _search(self, query: str) -> Step:
        data = self._data()
        found = data.search.best(query, self._passages)
        if not found:
            return Step("Nothing found.", changed=False)
        changed = not self._read.issuperset(found)
        self._read.update(found)
        texts = "\n\n".join(data.passages[number] for number in found)
        return Step(texts if changed else f"Nothing new.\n\n{texts}", changed=changed)

    def _answer(self, text: str, task: Task) -> Step:
        scores = match(text, task.payload["answers"])
        success = (scores.exact if self._metric == "exact" else scores.cover) == 1.0
        told = "That is right." if success else "That is wrong."
        return Step(told, reward=1.0 if success else scores.f1, done=True, success=success)

    def _data(self) -> DataSet:
        root = self._data_dir or os.environ.get("MASA_DATA")
        if not root:
            raise TrainingError(
                f"search_qa: nothing says where the data set {self._data_set} is; give data_dir (--data-dir) or set "
                f"MASA_DATA to a folder that holds searchqa/{self._data_set}"
            )
        return load_data_set(Path(root).expanduser() / "searchqa" / self._data_set)
