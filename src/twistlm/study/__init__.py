"""Whole experiments and nothing else: the quickstart, grids of warm and cold, a recipe over seeds."""
