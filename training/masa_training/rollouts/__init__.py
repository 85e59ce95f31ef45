"""Rollouts: episodes of agents in environments, many at a time, none lost and none counted twice."""

from masa_training.rollouts.episodes import Episode, Job, Turn
from masa_training.rollouts.playing import Arm, Player, WorkerSpec, opened
from masa_training.rollouts.record import Record

__all__ = ["Arm", "Episode", "Job", "Player", "Record", "Turn", "WorkerSpec", "opened"]
