"""What `twist --help` says: verbs by what one wants, each with an example of its own."""

from __future__ import annotations

from typing import Any

from typer.core import TyperGroup

EXAMPLES: dict[
    str, dict[str, str]
] = {  # what one wants -> verb -> an example of it; the first stands under the heading
    "Start": {
        "quickstart": "twist quickstart --speech my-speech --out runs/mine",
        "doctor": "twist doctor",
        "fetch": "twist fetch smollm2-135m",
        "show": "twist show runs/quickstart/warm",
    },
    "Data": {
        "manifest": "twist manifest LibriSpeech --corpus librispeech --out data/librispeech.jsonl",
    },
    "Units": {
        "tokenize": "twist tokenize data/librispeech.jsonl --out data/units",
        "import-units": "twist import-units features.jsonl --tokenizer slamkit-mhubert-base-25hz-kmeans-500 --out u",
        "units": "twist units quality speech --alignment phones.jsonl --seed 0",
        "hubert": "twist hubert speech --out runs/hubert --updates 20000",
        "kmeans": "twist kmeans speech --encoder runs/hubert/encoder --layer 6 --out runs/tokenizer",
        "tokenizer": "twist tokenizer import km.bin --encoder facebook/hubert-base-ls960 --layer 9 --raw --out units",
    },
    "Train": {
        "train": "twist train data/units --out runs/warm --recipe laptop",
        "import": "twist import TWIST-350M --tokenizer mhubert-base-25hz-kmeans-500 --out runs/twist-350m",
    },
    "Judge": {
        "eval": "twist eval runs/quickstart/warm --against runs/quickstart/cold",
        "report": "twist report runs/quickstart/warm runs/quickstart/cold",
        "bench": "twist bench check assets/mini-swuggy --tokenizer mini-25hz-500",
    },
    "Speak": {
        "generate": "twist generate runs/quickstart/warm prompt.ogg --out longer.wav",
        "resynth": "twist resynth my.wav --out again.wav",
        "serve": "twist serve runs/quickstart",
        "export": "twist export runs/quickstart/warm --for llama.cpp --out warm-gguf",
        "vocoder": "twist vocoder train speech --units-of runs/quickstart/warm --out runs/voice --updates 10000",
    },
    "Listen": {
        "listen": "twist listen plan warm=out/warm cold=out/cold truth=out/truth --out study --design mos "
        "--question meaning --clips 4 --ratings 10 --truth truth --floor shuffled",
    },
    "Study": {
        "study": "twist study plan two-cores",
    },
}
_BELOW = {  # verbs of groups
    "units": {"quality": EXAMPLES["Units"]["units"]},
    "tokenizer": {"import": EXAMPLES["Units"]["tokenizer"]},
    "vocoder": {
        "train": EXAMPLES["Speak"]["vocoder"],
        "import": "twist vocoder import mhubert-base-25hz-kmeans-500-hifigan",
    },
    "bench": {
        "storycloze": "twist bench storycloze stories.csv --out my-storycloze --voice flite:slt",
        "blimp": "twist bench blimp pairs.jsonl --out my-sblimp --voice flite:slt --voice flite:rms",
        "wuggy": "twist bench wuggy words.txt --out my-swuggy --voice espeak-ng:en-us+f3",
        "check": EXAMPLES["Judge"]["bench"],
        "validate": "twist bench validate my-sblimp",
    },
    "listen": {
        "plan": EXAMPLES["Listen"]["listen"],
        "serve": "twist listen serve study --recruit prolific --completion-code C1 --screen-out-code S1 "
        "--no-consent-code N1 --public-url https://listen.example.org/",
        "analyse": "twist listen analyse study --correlation 0.25",
    },
    "study": {
        "plan": EXAMPLES["Study"]["study"],
        "run": "twist study run two-cores",
        "report": "twist study report runs/study",
    },
}


class ByWant(TyperGroup):
    """The commands of `twist`, listed by what one wants."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write a list of verbs for each heading, and an example below it; verbs under none come last."""
        left = {name: command for name in self.list_commands(ctx) if (command := self.get_command(ctx, name))}
        for heading, verbs in EXAMPLES.items():
            rows = [(name, left.pop(name).get_short_help_str(100)) for name in verbs if name in left]
            with formatter.section(heading):
                formatter.write_dl(rows)
                formatter.write(f"{'':{formatter.current_indent}}e.g. {next(iter(verbs.values()))}\n")  # in one line
        if left:
            with formatter.section("More"):
                formatter.write_dl([(name, command.get_short_help_str(100)) for name, command in left.items()])


def add_examples(twist: Any) -> None:
    """Put each verb's example at the end of its own `--help`."""
    for verbs in EXAMPLES.values():
        for verb, example in verbs.items():
            if verb in twist.commands:
                _add(twist.commands[verb], example)
    for group, verbs in _BELOW.items():
        for verb, example in verbs.items():
            if verb in twist.commands[group].commands:
                _add(twist.commands[group].commands[verb], example)


def examples() -> list[str]:
    """Return every example, as it would be typed."""
    return [
        *(e for verbs in EXAMPLES.values() for e in verbs.values()),
        *(e for v in _BELOW.values() for e in v.values()),
    ]


def _add(command: Any, example: str) -> None:
    command.epilog = f"\b\nExample:\n  {example}"
