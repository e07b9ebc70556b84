"""The items of a list in a JSON file that may be larger than the memory: one at a time, as strictly as any JSON."""

from __future__ import annotations

import codecs
import json
from collections.abc import Iterator
from io import BufferedReader
from pathlib import Path
from typing import Any

from twistlm.errors import BadInput
from twistlm.files.jsonl import DAMAGED, Shape, parse_json
from twistlm.files.regular import open_kind
from twistlm.files.text import MOST_LINE

_PIECE = 1 << 20  # bytes read at once
_SPACE = " \t\r\n"
_GOES_ON = (*"0123456789.eE+-", "")  # what stands behind the part of a number that has been read
_VALUE = json.JSONDecoder()


def read_items(path: Path, kind: str, name: str, *, shape: Shape = dict, fix: str = DAMAGED) -> Iterator[Any]:
    """Yield what the list `name` of the object in a JSON file holds; memory holds one item, of at most MOST_LINE.

    Args:
        path: the file.
        kind: what it should be, in words.
        name: of the list, directly in the object that the file is.
        shape: of each item, see `Shape`.
        fix: what helps.

    Raises:
        BadInput: no such file, not JSON, no such list, an item or another value that is too large; an item of another
            shape. What comes before has been yielded by then.
    """
    with open_kind(path, kind) as file:
        text, found = _Text(file), False
        try:
            for _ in text.separated("{", "}"):
                key = json.loads(text.value())
                text.take(":")
                if key != name:
                    text.value()
                    continue
                found = True
                for n, _ in enumerate(text.separated("[", "]")):
                    where = f"{path}, {name}[{n}]"
                    yield parse_json(text.value(), where=where, kind=kind, shape=shape, fix=fix)
            if text.next():
                raise ValueError("something follows its end")
        except (ValueError, RecursionError) as wrong:
            why = "it is nested too deeply" if isinstance(wrong, RecursionError) else str(wrong)
            raise BadInput(f"{path}: not JSON that can be used ({why}). It should be {kind}. {fix}") from wrong
    if not found:
        raise BadInput(f"{path}: {name} is missing. It should be {kind}. {fix}")


class _Text:
    """A file's text, of which as much is held as the value that is being read needs. ValueError for what is none."""

    def __init__(self, file: BufferedReader) -> None:
        self._file, self._decoder = file, codecs.getincrementaldecoder("utf-8-sig")()
        self._held, self._at, self._ended = "", 0, False
        self._passed = 0  # characters before those that are held

    def next(self) -> str:
        """Return the next character that is no space, which stays; "" at the end."""
        while True:
            while self._at < len(self._held):
                if (here := self._held[self._at]) not in _SPACE:
                    return here
                self._at += 1
            if not self._more(_PIECE):
                return ""

    def take(self, character: str) -> None:
        if (here := self.next()) != character:
            raise ValueError(f"{character!r} should stand at character {self._passed + self._at}, not {here!r}")
        self._at += 1

    def separated(self, begin: str, end: str) -> Iterator[None]:
        """Yield before each of what stands between two brackets, with commas between them."""
        self.take(begin)
        if self.next() != end:
            yield
            while self.next() != end:
                self.take(",")
                yield
        self.take(end)

    def value(self) -> str:
        """Return the text of the next value, whatever it is."""
        self.next()
        while True:
            try:
                end = _VALUE.raw_decode(self._held, self._at)[1]
                if self._ended or self._held[end : end + 1] not in _GOES_ON:
                    break
            except json.JSONDecodeError as wrong:
                if self._ended:
                    raise ValueError(f"{wrong.msg} at character {self._passed + wrong.pos}") from wrong
            held = len(self._held) - self._at
            if held > MOST_LINE:
                raise ValueError(f"no value ends within {held >> 20} MB of character {self._passed + self._at}")
            self._more(max(_PIECE, held))
        found = self._held[self._at : end]
        self._at = end
        return found

    def _more(self, n_bytes: int) -> bool:
        data = self._file.read(n_bytes)
        self._ended = not data
        self._passed += self._at
        self._held = self._held[self._at :] + self._decoder.decode(data, final=self._ended)
        self._at = 0
        return bool(data)
