"""Warm against cold as a grid of training runs: which runs there are, running them, comparing them, the page."""
