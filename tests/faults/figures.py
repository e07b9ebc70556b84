"""Counts of what was tried and what broke, by scenario and mode."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from faults.driver import Line


def table(tried: Mapping[str, Sequence[Line]]) -> str:
    """Return scenario -> lines as a Markdown table: faults by mode, and which promises were broken how often."""
    modes = list(dict.fromkeys(line["mode"] for lines in tried.values() for line in lines))
    rows = [["scenario", "calls", *modes, "faults", "broken"]]
    every: list[Line] = []
    for name, lines in [*tried.items(), ("all", every)]:
        fired = [line for line in lines if line["fired"]]
        counts = Counter(line["mode"] for line in fired)
        broken = Counter(word for line in lines for word in line["broken"])
        calls = max((line.get("of", 0) for line in lines), default=0) if lines is not every else ""
        said = ", ".join(f"{n} {word}" for word, n in sorted(broken.items())) or "none"
        rows.append([name, str(calls), *(str(counts[mode]) for mode in modes), str(len(fired)), said])
        every += lines
    rows.insert(1, ["---"] * len(rows[0]))
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)
