"""The command `twist`. Verbs stand by theme; `main` knows them all, `command` holds what they share.

Nothing heavy is imported before a verb runs: `twist --help` must answer at once.
"""
