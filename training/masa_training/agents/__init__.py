"""Agents: a backbone, the skills it is told, and how its words become actions."""

from masa_training.agents.agent import Agent, AgentConfig, Dialogue
from masa_training.agents.parsing import parse_action

__all__ = ["Agent", "AgentConfig", "Dialogue", "parse_action"]
