"""Making spoken benchmarks of minimal pairs from text, and finding out what else than language gives a side away.

`engines` speaks, `spoken` keeps what was spoken, `storycloze`, `blimp` and `wuggy` (on `pseudowords`) build, `release`
writes the folder with its card and checksums, `check` (on `cues`) looks for leaks and shortcuts.
"""
