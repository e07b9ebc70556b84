"""The command `twist`. Verbs stand by theme; `main` knows them all, `help` lists them, `command` holds
what they share.

Nothing heavy is imported before a verb runs: `twist --help` must answer at once.
"""
