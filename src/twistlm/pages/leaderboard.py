"""The leaderboard as plain values, as text for the terminal, and as one self-contained HTML page."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

from twistlm.evaluate.leaderboard import FIELDS, Block, Protocol, Row, Section
from twistlm.files.atomic import atomic_write
from twistlm.pages import page
from twistlm.pages.words import percent, percent_interval, with_interval

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
    known, own = [s for s in measured if s.published], [s for s in measured if not s.published]
    rest = [s for s in sections if s not in measured]
    parts = [
        '<p class="brand">twistlm</p>\n<h1>Our models beside published ones</h1>\n'
        '<p class="lead">Accuracies on pairs: how often the right one is found likelier; guessing gives 50%. A number '
        "can be read against another only in the same table: tables are apart by benchmark and by protocol. What is "
        "known to move these numbers is length normalisation, whether the end token counts, dev or test, and which "
        "recordings. Papers seldom state all of it, and each published table says what is not known.</p>",
        *map(_section, known),
    ]
    if own:
        parts.append(
            '<h2>Benchmarks nobody else published on</h2>\n<p class="note">These numbers cannot be compared with any '
            "published one: other words, sentences, stories and voices.</p>"
        )
        parts += [_section(section, level=3) for section in own]
    if rest:
        inner = "\n".join(_section(section, level=3) for section in rest)
        parts.append(f"<details><summary>Published numbers on benchmarks not measured here</summary>{inner}</details>")
    parts.append(f"<h2>Sources</h2>\n{_sources(sections)}")
    footer = (
        "In brackets: 95% confidence intervals of ours; published numbers came without. *: recalled, not confirmed."
    )
    html = page.document("twistlm: leaderboard", parts, footer=footer)
    with atomic_write(out) as temporary:
        temporary.write_text(html, encoding="utf-8")
    return out


def _measured(sections: Sequence[Section]) -> list[Section]:
    return [section for section in sections if any(block.ours for block in section.blocks)]


def _section(section: Section, *, level: int = 2) -> str:
    return f"<h{level}>{escape(section.title)}</h{level}>\n" + "\n".join(map(_block, section.blocks))


def _block(block: Block) -> str:
    body = "".join(map(_row, block.rows))
    side = "Measured here" if block.ours else "Published"
    heading = f"<b class={'warm' if block.ours else 'cold'}>{side}</b>: {escape(_protocol(block.rows[0].protocol))}"
    notes = " ".join(filter(None, (_suite(block.rows[0]), _verdict(block))))
    table = (
        "<div class=scroll><table class=board><thead><tr><th scope=col>model</th><th scope=col>accuracy</th>"
        f"<th scope=col>{'items' if block.ours else 'source'}</th></tr></thead><tbody>{body}</tbody></table></div>"
    )
    if not block.ours and not block.comparable and len(block.rows) > _LONG:
        table = f"<details><summary>{len(block.rows)} models</summary>{table}</details>"
    return f"<h3>{heading}</h3>\n<p class=note>{notes}</p>\n{table}"


def _suite(row: Row) -> str:
    if row.facts is None:
        return ""
    version, sha256 = row.facts["version"], row.facts["checksum"][:16]
    return escape(f"Suite {row.facts['suite']} version {version}, sha256 {sha256}, {row.facts['n_pairs']:,} pairs.")


def _row(row: Row) -> str:
    accuracy, _, ci = _accuracy(row).partition(" [")
    under = f"units {row.facts['unit_spec']}, weights {row.facts['model_sha256'][:12]}" if row.facts else row.remark
    small = f"<small>{escape(under)}</small>" if under else ""
    last = f"{row.n:,}" if row.facts else escape(row.source.partition(":")[0])
    title = f' title="{escape(row.source)}"' if row.source else ""
    mark = "*" if "recalled" in row.remark else ""
    return (
        f"<tr><th scope=row>{escape(row.model)}{small}</th><td>{accuracy}{mark}"
        f"{f'<small>[{ci}</small>' if ci else ''}</td><td{title}>{last}</td></tr>"
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


def _sources(sections: Sequence[Section]) -> str:
    """What the keys of sources stand for, in the order of the alphabet."""
    keys = sorted({row.source for s in sections for block in s.blocks for row in block.rows if row.source})
    parts = (source.partition(": ") for source in keys)
    return "<dl>" + "".join(f"<dt>{escape(key)}</dt><dd>{escape(what)}</dd>" for key, _, what in parts) + "</dl>"
