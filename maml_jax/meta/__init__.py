"""Across tasks: the meta-objective, the outer step, the train step and evaluation."""
