"""What every verb shares: `--json` and `--debug`, errors as one paragraph, exit codes (0 ok, 1 failed, 2 bad input)."""

from __future__ import annotations

import functools
import inspect
import json
import os
import signal
import sys
import textwrap
import threading
import types
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import typer

from twistlm.compute.waiting import asleep_where_busy
from twistlm.errors import TwistError, visible
from twistlm.files.named import DEFAULT_TOKENIZER

app = typer.Typer(
    name="twist",
    help="Speech language models warm-started from text ones: train, judge, listen.",
    no_args_is_help=True,
    add_completion=True,
    rich_markup_mode=None,  # rich takes longer to import than all the rest of --help
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120},
)


MINI = DEFAULT_TOKENIZER
Channel = Annotated[
    int | None,
    typer.Option(help="Hear one channel of stereo or telephone speech, from 1; default: all, mixed.", min=1),
]
MOST_SEED = 2**32 - 1  # torch's and numpy's old generators take 32 bits
Seed = Annotated[int, typer.Option(help="Seed of everything random.", min=0, max=MOST_SEED)]
TokenizerName = Annotated[str, typer.Option(help="Name or folder of a speech tokenizer.")]
FoundTokenizer = Annotated[
    str | None, typer.Option(help="Name or folder of a speech tokenizer; default: found by what the units are.")
]
FoundVocoder = Annotated[
    str | None, typer.Option(help="Name or folder of a vocoder; default: found by what the units are.")
]
Speaker = Annotated[str | None, typer.Option(help="Who speaks, of a vocoder with several voices.")]
Style = Annotated[str | None, typer.Option(help="How, of a vocoder with several styles.")]
Language = Annotated[str | None, typer.Option(help="In which language, of a vocoder with several.")]
Search = Annotated[
    list[Path] | None, typer.Option(help="Look for tokenizers and vocoders below this folder too. Can be repeated.")
]
UnitsOf = Annotated[
    Path | None, typer.Option(help="Take the units of this model, run or folder of units; instead of --tokenizer.")
]
Set = Annotated[list[str] | None, typer.Option("--set", help="Change one setting: lr=1e-3. Can be repeated.")]
Recipe = Annotated[str, typer.Option(help="Recipe, or a TOML file with what differs from one.")]


def _version(asked: bool) -> None:
    if asked:
        print(f"twistlm {metadata.version('twistlm')}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", is_eager=True, callback=_version)
    ] = False,
) -> None:
    pass


def clips(n: int) -> str:
    return f"{n} clip" if n == 1 else f"{n} clips"


class Result(NamedTuple):
    """What a verb has to say: `facts` for `--json`, `text` for people; 1 when what it looked at is not good."""

    facts: dict[str, Any]
    text: str
    exit_code: int = 0


_SHARED = {
    "as_json": Annotated[bool, typer.Option("--json", help="Print the result as JSON, and no progress bars.")],
    "debug": Annotated[bool, typer.Option("--debug", help="Show the whole traceback of an error.")],
}


def group(name: str, *, help: str) -> Callable[[Callable[..., Result]], Callable[..., None]]:
    """Return a `verb` for the commands of a group of them: `twist NAME VERB`."""
    below = typer.Typer(name=name, help=help, no_args_is_help=True, rich_markup_mode=None)
    app.add_typer(below)
    return functools.partial(verb, of=below)


def verb(function: Callable[..., Result], *, of: typer.Typer = app) -> Callable[..., None]:
    """Make `function` a command of `twist`, or of a group `of` it, with `--json` and `--debug` added.

    A parameter named `progress` is not an option: it is told whether to draw progress bars.
    """
    signature = inspect.signature(function, eval_str=True)
    own = {name: p for name, p in signature.parameters.items() if name != "progress"}
    shared = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=False, annotation=annotation)
        for name, annotation in _SHARED.items()
    ]

    @functools.wraps(function)
    def run(*, as_json: bool, debug: bool, **given: Any) -> None:
        if "progress" in signature.parameters:  # long work
            given["progress"] = not as_json
            asleep_where_busy()
        try:
            with _terminable():
                result = function(**given)
        except (TwistError, OSError, MemoryError, KeyboardInterrupt) as error:
            if debug:
                raise
            message, code = explain(error)
            print(message, file=sys.stderr)
            raise typer.Exit(code) from None
        except BaseException:
            sys.excepthook = sys.__excepthook__ if debug else _unexpected
            raise
        if os.environ.get("RANK", "0") == "0":  # under torchrun every rank has the same result
            _say(_as_json(result.facts) if as_json else result.text, as_json)
        if result.exit_code:
            raise typer.Exit(result.exit_code)

    run.__signature__ = inspect.Signature([*own.values(), *shared])  # type: ignore[attr-defined]
    run.__annotations__ = {p.name: p.annotation for p in [*own.values(), *shared]}
    return of.command(function.__name__.rstrip("_").replace("_", "-"))(run)


def _as_json(facts: Mapping[str, Any]) -> str:
    """JSON that any reader takes: what is undefined is null."""
    from twistlm.files.jsonl import without_nan

    return json.dumps(without_nan(facts), indent=1, default=str, allow_nan=False)


def tell(line: str) -> None:
    """Say how far a long job is, on standard error."""
    print(visible(line), file=sys.stderr, flush=True)


def _say(text: str, as_json: bool) -> None:
    """Print a result. It may go to a full disk or to a pipe whose reader has left."""
    try:
        print(text.replace("\x7f", "\\u007f") if as_json else visible(text), flush=True)  # JSON escapes the others
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else Python would try again as it ends
        if not isinstance(error, BrokenPipeError):
            why = f"the result could not be printed: {error.strerror}. The work is done; only what it says is lost."
            print(f"error: {why}", file=sys.stderr)
        raise typer.Exit(1) from None


class _Terminated(KeyboardInterrupt):
    """SIGTERM, which schedulers send: the same as Ctrl-C, but for the exit code."""


@contextmanager
def _terminable() -> Iterator[None]:
    """Let SIGTERM end the block as Ctrl-C does, so that nothing temporary is left; train notes both itself."""
    ours = threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    if ours:
        signal.signal(signal.SIGTERM, _terminate)
    try:
        yield
    finally:
        if ours:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _terminate(_: int, __: types.FrameType | None) -> None:
    raise _Terminated


def explain(error: BaseException) -> tuple[str, int]:
    """Return what to tell the user about an expected error, as one paragraph, and the exit code."""
    match error:
        case KeyboardInterrupt():
            code = 143 if isinstance(error, _Terminated) else 130
            return "interrupted: run the same command again to go on from the last whole step.", code
        case TwistError():
            text, code = str(error), error.exit_code
        case MemoryError():
            text, code = "there is not enough memory. Close other programs, or use shorter files or smaller batches.", 1
        case BrokenPipeError():
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the reader of our output has left
            return "", 1
        case OSError():
            what = error.strerror or str(error)
            where = f" ({error.filename})" if error.filename else ""
            text, code = f"the system refused: {what}{where}. Check that the path exists, is yours and has space.", 1
        case _:
            text, code = str(error), 1
    return textwrap.fill(
        f"error: {visible(' '.join(text.split()))}", width=100, break_long_words=False, break_on_hyphens=False
    ), code


def _unexpected(kind: type[BaseException], error: BaseException, _trace: types.TracebackType | None) -> None:
    said = visible(" ".join(str(error).split()))
    text = f"error: {kind.__name__}: {said}. This should not happen: it is a fault of twistlm."
    print(textwrap.fill(f"{text} Add --debug to see where.", width=100), file=sys.stderr)
