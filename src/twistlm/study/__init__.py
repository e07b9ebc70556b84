"""Whole experiments, and what the verbs of `twist` do: quickstart, training, evaluation, unit quality, reports."""
