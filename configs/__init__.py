"""Experiment cards: paper, command, expected number, run time."""
