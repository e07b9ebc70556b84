"""Training of unit language models: one loop, exact resume, a line of metrics for every update."""
