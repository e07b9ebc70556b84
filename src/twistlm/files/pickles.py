"""Pickles of others, read without running anything that is in them, in bounded time, depth and memory.

A pickle is a program: it names functions and calls them. Here every name stands for a `Record`, which only keeps what
it is given. So nothing of the file runs, nothing is imported, whatever it asks for; what is wanted is cut out of the
records afterwards.
"""

from __future__ import annotations

import pickle
import struct
from collections.abc import Callable, Iterable
from typing import Any, BinaryIO, ClassVar, Self

from twistlm.errors import BadInput

MOST_STEPS = 1_000_000  # opcodes: a second or so

# What reading raises on bytes that do not follow the format.
DAMAGED = (
    pickle.UnpicklingError, EOFError, ValueError, TypeError, AttributeError, LookupError, OverflowError, MemoryError,
    RecursionError, struct.error,
)  # fmt: skip


class Record:
    """Stands for a class or function that a pickle names: keeps arguments and state, does nothing."""

    args: tuple[Any, ...]
    state: Any = None

    def __new__(cls, *args: Any) -> Self:  # and no __init__: some opcodes call only __new__
        record = super().__new__(cls)
        record.args = args
        return record

    def __setstate__(self, state: Any) -> None:
        self.state = state


# The unpickler written in Python and not the one in C: the latter may read ahead of the opcodes, past arrays that
# joblib and torch put behind them, and a few bytes can make its table of references fill the memory.
class Restricted(pickle._Unpickler):
    """Reads one pickle; `find_class` of a subclass says which record a name stands for.

    Only text, bytes and plain numbers may be keys or members of sets: hashing what refers to itself, or is nested
    deeply, does not end or kills Python.

    Args:
        stream: at the pickle's first byte; afterwards behind its last.
        most: opcodes it may have.
    """

    dispatch: ClassVar[dict[int, Callable[[Any], None]]]

    def __init__(self, stream: BinaryIO, *, most: int = MOST_STEPS) -> None:
        super().__init__(stream, encoding="latin1")
        self._left = most

    def find_class(self, module: str, name: str, /) -> Any:
        raise BadInput(f"it asks for {module[:99]}.{name[:99]}")

    def persistent_load(self, pid: Any) -> Any:  # noqa: ARG002
        raise BadInput("it refers to something outside of it")

    def get_extension(self, code: int) -> None:  # noqa: ARG002
        raise BadInput("it uses the registry of extensions")

    def load_bytearray8(self) -> None:
        (size,) = struct.unpack("<Q", self.read(8))  # type: ignore[attr-defined]
        data = self.read(size)  # type: ignore[attr-defined]  # never more than there is, while bytearray(size) is
        if len(data) < size:
            raise EOFError
        self.append(bytearray(data))  # type: ignore[attr-defined]


def _counted(load: Callable[[Any], None], keys: Callable[[list[Any]], Iterable[Any]] | None) -> Callable[[Any], None]:
    def step(self: Any) -> None:
        self._left -= 1
        if self._left < 0:
            raise BadInput("it is far longer than it needs to be")
        if keys is not None and not all(
            key is None or type(key) in (str, bytes, int, float, bool) for key in keys(self.stack)
        ):
            raise BadInput("a key in it is neither text nor a number")
        load(self)

    return step


def _pairs(stack: list[Any]) -> list[Any]:
    return stack[::2]


_KEYS: dict[bytes, Callable[[list[Any]], Iterable[Any]]] = {
    pickle.SETITEM: lambda stack: stack[-2:-1],
    pickle.SETITEMS: _pairs,  # behind a mark, the stack holds the items alone
    pickle.DICT: _pairs,
    pickle.ADDITEMS: lambda stack: stack,
    pickle.FROZENSET: lambda stack: stack,
}
_loads: dict[int, Callable[[Any], None]] = {
    **pickle._Unpickler.dispatch,
    pickle.BYTEARRAY8[0]: Restricted.load_bytearray8,
}
Restricted.dispatch = {code: _counted(load, _KEYS.get(bytes([code]))) for code, load in _loads.items()}
