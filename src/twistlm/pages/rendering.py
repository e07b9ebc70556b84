"""From plain values to a page: Jinja2 templates that escape what they are given; one file that loads nothing."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from twistlm.files.atomic import atomic_write


def render(template: str, **values: Any) -> str:
    """Return the page that `templates/<template>` makes of `values`.

    Every value is escaped, in text and in (quoted) attributes, but for the drawings of `twistlm.pages.plots`. A value
    that a template names and nobody gave is an error.
    """
    return _environment().get_template(template).render(values)


def write(page: str, out: Path) -> Path:
    """Write a page, atomically, and return its path."""
    with atomic_write(out) as temporary:
        temporary.write_text(page, encoding="utf-8")
    return out


@functools.cache
def _environment() -> Environment:
    return Environment(
        loader=PackageLoader("twistlm.pages"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
