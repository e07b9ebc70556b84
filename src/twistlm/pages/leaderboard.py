"""The leaderboard as plain values, as text for the terminal, and as one self-contained HTML page."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from twistlm.evaluate.leaderboard import FIELDS, Block, Protocol, Row, Section
from twistlm.pages.numbers import percent, percent_interval, with_interval
from twistlm.pages.parts import Cell, Table, cell
from twistlm.pages.rendering import render, write

_WORDS = {
    ("normalize", "mean"): "log-probability per unit",
    ("normalize", "sum"): "summed log-probability",
    ("end", "counted"): "end token counted",
    ("end", "not counted"): "end token not counted",
    ("rendering", "original"): "the first release’s recordings",
}
_LONG = 10  # rows of a table that is not comparable; longer ones begin folded
_NAMES = {"normalize": "length normalisation", "end": "whether the end token counts", "split": "dev or test",
          "rendering": "which recordings"}  # fmt: skip


def values(sections: Sequence[Section]) -> dict[str, Any]:
    """Return the leaderboard as JSON holds it."""
    return {
        section.key: {
            "title": section.title,
            "blocks": [
                {
                    "ours": block.ours,
                    "comparable": block.ours or block.comparable,
                    "protocol": dict(block.rows[0].protocol),
                    "differs": block.differs,
                    "unknown": block.unknown,
                    "rows": [dataclasses.asdict(row) for row in block.rows],
                }
                for block in section.blocks
            ],
        }
        for section in sections
    }


def text(sections: Sequence[Section]) -> str:
    """Return a line for each number of ours, and how many published ones stand beside it."""
    lines = []
    for section in _measured(sections):
        apart = [block for block in section.blocks if not block.ours]
        for block in (b for b in section.blocks if b.ours):
            lines.append(f"{section.title}: {_protocol(block.rows[0].protocol)}")
            lines += [f"  {_accuracy(row):24} n {row.n:<6} {row.model}" for row in block.rows]
        n_same = sum(len(block.rows) for block in apart if block.comparable)
        n_other = sum(len(block.rows) for block in apart) - n_same
        lines.append(f"  published: {n_same} by this protocol, {n_other} by others or by ones not stated in full")
    return "\n".join(lines)


def write_page(sections: Sequence[Section], out: Path) -> Path:
    """Write the page, atomically, and return its path."""
    measured = _measured(sections)
    page = render(
        "leaderboard.html",
        known=[_shown(section) for section in measured if section.published],
        own=[_shown(section) for section in measured if not section.published],
        rest=[_shown(section) for section in sections if section not in measured],
        sources=_sources(sections),
    )
    return write(page, out)


def _measured(sections: Sequence[Section]) -> list[Section]:
    return [section for section in sections if any(block.ours for block in section.blocks)]


def _shown(section: Section) -> dict[str, Any]:
    """A section as the page shows it."""
    return {"title": section.title, "blocks": [_block(block) for block in section.blocks]}


def _block(block: Block) -> dict[str, Any]:
    header = ("model", "accuracy", "items" if block.ours else "source")
    return {
        "ours": block.ours,
        "protocol": _protocol(block.rows[0].protocol),
        "notes": " ".join(filter(None, (_suite(block.rows[0]), _verdict(block)))),
        "table": Table(header=tuple(Cell(text=text) for text in header), rows=tuple(map(_row, block.rows))),
        "folded": not block.ours and not block.comparable and len(block.rows) > _LONG,
    }


def _suite(row: Row) -> str:
    if row.facts is None:
        return ""
    version, sha256 = row.facts["version"], row.facts["checksum"][:16]
    return f"Suite {row.facts['suite']} version {version}, sha256 {sha256}, {row.facts['n_pairs']:,} pairs."


def _row(row: Row) -> tuple[Cell, Cell, Cell]:
    accuracy = cell(_accuracy(row))
    mark = "*" if "recalled" in row.remark else ""
    under = f"units {row.facts['unit_spec']}, weights {row.facts['model_sha256'][:12]}" if row.facts else row.remark
    last = f"{row.n:,}" if row.facts else row.source.partition(":")[0]
    return (
        Cell(text=row.model, small=under),
        Cell(text=accuracy.text + mark, small=accuracy.small),
        Cell(text=last, title=row.source),
    )


def _verdict(block: Block) -> str:
    """Say whether a published block may be read against ours."""
    if block.ours or block.differs is None or block.unknown is None:
        return ""
    if block.comparable:
        return "Comparable with ours: the same protocol in all four respects."
    why = [f"differs in {_join(block.differs)}"] if block.differs else []
    why += [f"not known: {_join(block.unknown)}"] if block.unknown else []
    return f"Not comparable with ours: {'; '.join(why)}."


def _join(fields: Sequence[str]) -> str:
    return ", ".join(_NAMES[field] for field in fields)


def _protocol(protocol: Protocol) -> str:
    stated = [_WORDS.get((field, protocol[field]), protocol[field]) for field in FIELDS if field in protocol]
    return ", ".join(stated) or "protocol not stated"


def _accuracy(row: Row) -> str:
    if row.facts is None:  # as it was published, to one or two decimals
        return f"{100 * row.accuracy:.{1 if abs(1000 * row.accuracy - round(1000 * row.accuracy)) < 1e-6 else 2}f}%"
    return with_interval(percent(row.accuracy), "" if row.ci is None else percent_interval(row.ci))


def _sources(sections: Sequence[Section]) -> list[tuple[str, str]]:
    """What the keys of sources stand for, in the order of the alphabet."""
    keys = sorted({row.source for s in sections for block in s.blocks for row in block.rows if row.source})
    return [(key, what) for key, _, what in (source.partition(": ") for source in keys)]
