"""Searching for the group that fits a backbone: algorithms that know nothing of models, environments or files."""

from masa_training.search.acceptance import Acceptance, FixedPaired, SequentialPaired, Strict, sequential_paired
from masa_training.search.algorithms import Branch, branches, hill_climb, tree_search, ucb1
from masa_training.search.record import Evaluate, Failure, Propose, SearchStopped, Situation, Stop, replay
from masa_training.search.trace import (
    Evaluation,
    Event,
    Node,
    Proposal,
    State,
    Trace,
    Verdict,
    best_nodes,
    event_from_json,
    event_to_json,
)

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
