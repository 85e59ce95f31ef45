"""Searching for the group that fits a backbone: algorithms that know nothing of models, environments or files."""

from masa_training.search.acceptance import Acceptance, FixedPaired, SequentialPaired, Strict
from masa_training.search.hill_climbing import hill_climb
from masa_training.search.record import Evaluate, Failure, Propose, SearchStopped, Situation, Stop
from masa_training.search.replay import replay
from masa_training.search.sequential import sequential_paired
from masa_training.search.state import State
from masa_training.search.trace import (
    Evaluation,
    Event,
    Node,
    Proposal,
    Trace,
    Verdict,
    best_nodes,
    event_from_json,
    event_to_json,
)
from masa_training.search.tree_search import Branch, branches, tree_search, ucb1

__all__ = [
    "Acceptance",
    "Branch",
    "Evaluate",
    "Evaluation",
    "Event",
    "Failure",
    "FixedPaired",
    "Node",
    "Proposal",
    "Propose",
    "SearchStopped",
    "SequentialPaired",
    "Situation",
    "State",
    "Stop",
    "Strict",
    "Trace",
    "Verdict",
    "best_nodes",
    "branches",
    "event_from_json",
    "event_to_json",
    "hill_climb",
    "replay",
    "sequential_paired",
    "tree_search",
    "ucb1",
]
