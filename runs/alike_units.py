"""Can units bear less of who speaks, and tell as much of what is said? Codebooks refined with twins and without.

    python assets/make/speech.py twins --out .assets-work/twins --hours 4
    python assets/make/speech.py gold --out .assets-work/gold --hours 1
    python runs/alike_units.py --twins .assets-work/twins --gold .assets-work/gold

Twins are texts that two voices say, frame by frame matched inside each phone. Codebooks are fitted on some of them and
judged on others, and on voices that nothing was trained on. For each: the share of matched frames, silences left out,
that are one unit; the units' entropy; PNMI; and the cross-entropy of phones, nats a frame, by what the fitted speech
says of each unit: on unseen voices this is what a vocoder or recogniser of these units can know; and the share of
frames whose likeliest phone is right. The last row is of the features themselves, by a linear classifier fitted on the
same frames: what no codebook of this encoder can do much better.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from twistlm.audio.clip import Clip
from twistlm.compute.threads import in_order
from twistlm.corpus.manifest import Entry, load
from twistlm.progress import track
from twistlm.units import kmeans
from twistlm.units.kmeans import Codebook
from twistlm.units.quality import phones_at, unit_quality
from twistlm.units.quality.alignment import SILENCE, Alignment, read_alignments, receptive_field
from twistlm.units.refine import refine
from twistlm.units.tokenizer import SpeechTokenizer

Heard = tuple[NDArray[np.float32], NDArray[np.str_]]  # features [F, D], phones [F]
UNITS, DIMENSIONS, REFINE = 500, 40, {"updates": 600, "noise": 2.0}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--twins", type=Path, required=True)
    parser.add_argument("--gold", type=Path, required=True, help="folder with the voices rms, rms-x88, rms-x118")
    parser.add_argument("--tokenizer", default="mini-25hz-500", help="whose encoder, and which codebook beside")
    parser.add_argument("--texts", type=int, default=420, help="of the twins; a fifth of them judges")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.manual_seed(options.seed)
    tok = SpeechTokenizer.load(options.tokenizer)

    pairs, aligned = twins(options.twins, options.texts, options.seed)
    heard = dict(hear(tok, [entry for pair in pairs for entry in pair], aligned))
    cut = len(pairs) * 4 // 5
    fitted = [heard[entry.id] for pair in pairs[:cut] for entry in pair]
    features, phones = map(np.concatenate, zip(*fitted, strict=True))
    names = sorted({*phones.tolist()} - {""})
    labels = np.array([names.index(p) if p else -1 for p in phones])
    of = {e.id: aligned[e.id] for pair in pairs for e in pair}
    train, test = (matched(part, heard, of, tok) for part in (pairs[:cut], pairs[cut:]))
    gold, aligned = load(options.gold), read_alignments(options.gold / "phones.jsonl", phone_set="radio")
    judged = {"held-out twins": [heard[entry.id] for pair in pairs[cut:] for entry in pair]}
    for voice in ("rms", "rms-x88", "rms-x118"):
        judged[voice] = [h for _, h in hear(tok, [e for e in gold if e.speaker == voice][:90], aligned)]

    projection = kmeans.discriminant(features, labels, DIMENSIONS)
    start = kmeans.fit(features, UNITS, seed=options.seed, projection=projection)
    how = {**REFINE, "seed": options.seed}
    books = {"as bundled": lambda: tok.codebook, "refined": lambda: refine(start, features, labels, **how)}
    for weight in (0.03, 0.1, 0.3):
        books[f"with twins, {weight}"] = lambda w=weight: refine(
            start, features, labels, twins=train[:2], alike=w, balance=0.3, **how
        )
    print(
        "| codebook | twins alike | entropy | " + " | ".join(f"{v}: cross-entropy, PNMI, right" for v in judged) + " |"
    )
    print("|---" * (3 + len(judged)) + "|")
    for name, make in books.items():
        book = make()
        told = known(book, features, labels, len(names))
        cells = [f"{alike(book, *test):.3f}", f"{entropy(book, features):.2f}"]
        for clips in judged.values():
            x, p = map(np.concatenate, zip(*clips, strict=True))
            there = np.isin(p, names)
            units = book.assign(x[there])
            said = np.array([names.index(one) for one in p[there]])
            right = float((told[units].argmax(1) == said).mean())
            cells.append(f"{-told[units, said].mean():.3f}, {unit_quality(units, p[there]).pnmi:.3f}, {right:.3f}")
        print(f"| {name} | {' | '.join(cells)} |", flush=True)
    known_phones = labels >= 0
    classifier = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=200))
    classifier.fit(features[known_phones], labels[known_phones])
    cells = ["", ""]
    for clips in judged.values():
        x, p = map(np.concatenate, zip(*clips, strict=True))
        there = np.isin(p, names)
        told, said = classifier.predict_log_proba(x[there]), np.array([names.index(one) for one in p[there]])
        cells.append(f"{-told[np.arange(len(said)), said].mean():.3f}, , {(told.argmax(1) == said).mean():.3f}")
    print(f"| features, linear classifier | {' | '.join(cells)} |", flush=True)


def twins(folder: Path, texts: int, seed: int) -> tuple[list[tuple[Entry, Entry]], dict[str, Alignment]]:
    """Pairs of clips of one text, of which both voices say the same phones, in a seeded order; and all alignments."""
    entries = {entry.id: entry for entry in load(folder)}
    aligned = read_alignments(folder / "phones.jsonl", phone_set="radio")
    both = [id for id in entries if f"{id}-other" in entries]
    same = [id for id in both if [p for p, *_ in aligned[id]] == [p for p, *_ in aligned[f"{id}-other"]]]
    order = np.random.default_rng(seed).permutation(len(same))[:texts]
    return [(entries[same[i]], entries[f"{same[i]}-other"]) for i in order], aligned


def hear(tok: SpeechTokenizer, entries: list[Entry], aligned: dict[str, Alignment]) -> Iterator[tuple[str, Heard]]:
    """Yield ids with features and phones."""
    grid = {"hop": tok.spec.hop, "sample_rate": tok.spec.sample_rate, "receptive": receptive_field(tok)}

    def one(entry: Entry) -> tuple[str, Heard]:
        features = tok.features(Clip.read(entry.path, sample_rate=tok.spec.sample_rate))
        return entry.id, (features, phones_at(aligned[entry.id], len(features), **grid))

    yield from track(in_order(one, entries), description="listening", total=len(entries), enabled=True)


def matched(
    pairs: list[tuple[Entry, Entry]], heard: dict[str, Heard], aligned: dict[str, Alignment], tok: SpeechTokenizer
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.str_]]:
    """Frames of the first voices, those of the second that lie as far into the same phone, and their phones."""
    a, b, said = [], [], []
    for first, second in pairs:
        (x, phones), (y, _) = heard[first.id], heard[second.id]
        edges = [[s for _, s, _ in aligned[e.id]] + [aligned[e.id][-1][2]] for e in (first, second)]
        middles = (np.arange(len(x)) * tok.spec.hop + receptive_field(tok) / 2) / tok.spec.sample_rate
        there = np.interp(middles, *edges) * tok.spec.sample_rate - receptive_field(tok) / 2
        a.append(x)
        b.append(y[np.round(there / tok.spec.hop).astype(int).clip(0, len(y) - 1)])
        said.append(phones)
    return np.concatenate(a), np.concatenate(b), np.concatenate(said)


def known(book: Codebook, features: NDArray[np.float32], labels: NDArray[np.int64], n: int) -> NDArray[np.float64]:
    """Log probability of each phone given each unit, float64 [K, P], from the fitted frames."""
    counts = np.full((book.n_units, n), 0.02)
    told = labels >= 0
    np.add.at(counts, (book.assign(features[told]), labels[told]), 1)
    return np.log(counts / counts.sum(1, keepdims=True))


def alike(book: Codebook, a: NDArray[np.float32], b: NDArray[np.float32], phones: NDArray[np.str_]) -> float:
    """Share of matched frames of speech that are one unit."""
    spoken = ~np.isin(phones, [*SILENCE, ""])
    return float((book.assign(a[spoken]) == book.assign(b[spoken])).mean())


def entropy(book: Codebook, features: NDArray[np.float32]) -> float:
    """Of the units of frames, nats."""
    share = np.bincount(book.assign(features), minlength=book.n_units) / len(features)
    return float(-(share[share > 0] * np.log(share[share > 0])).sum())


if __name__ == "__main__":
    main()
