"""Pairs judged a second: every bundled suite on a 135M model, against the straightforward way with plain transformers.

Ours, as `twist eval`: `tokenize_suite` with an empty cache (each distinct sound once for all suites), then
`score_sides` (each distinct sequence of units once for all suites).
Straightforward: eight pairs at a time, each side a padded batch: sounds padded with zeros through transformers' own
encoder, the nearest centroid of each frame, units padded again through transformers' language model, in float32. Both
are timed on the same pairs, in turns.
"""

from __future__ import annotations

import argparse
import dataclasses
import tempfile
import time
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence
from transformers import HubertModel, LlamaConfig

from twistlm.audio.clip import Clip
from twistlm.evaluate.pairs import score_sides
from twistlm.evaluate.suites.catalogue import BUNDLED, open_suite
from twistlm.evaluate.suites.sounds import load
from twistlm.evaluate.suites.suite import Suite
from twistlm.evaluate.unit_cache import tokenize_suite
from twistlm.lm.model import UnitLM
from twistlm.lm.pretrained import from_config
from twistlm.lm.vocab import Vocab
from twistlm.units.tokenizer import SpeechTokenizer

BATCH, BAR = 8, 5.0
# SmolLM2-135M's shape: speed does not depend on the weights' values, so none are fetched.
SHAPE = {
    "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30, "num_attention_heads": 9,
    "num_key_value_heads": 3, "max_position_embeddings": 8192, "tie_word_embeddings": True,
}  # fmt: skip
Seconds = tuple[float, float]  # tokenizing, scoring
Sides = dict[str, tuple[float, int]]  # suite and clip -> log-probability, units
Clock = Callable[[], float]


def ours(tok: SpeechTokenizer, lm: UnitLM, suites: Sequence[Suite], clock: Clock) -> tuple[Seconds, Sides]:
    with tempfile.TemporaryDirectory() as cache:
        began = clock()
        spoken = [tokenize_suite(suite, tok, cache=cache) for suite in suites]
        cut = clock()
    found: Sides = {}
    known: dict[bytes, tuple[float, int]] = {}
    for one in spoken:
        sides = score_sides(lm, one.units, one.suite.pairs, known=known)
        known |= {one.units[i].ids.tobytes(): of for i, of in sides.items()}
        found |= {f"{one.suite.name}/{i}": score for i, score in sides.items()}
    return (cut - began, clock() - cut), found


@torch.no_grad()
def straightforward(tok: SpeechTokenizer, lm: UnitLM, suites: Sequence[Suite], clock: Clock) -> tuple[Seconds, Sides]:
    encoder = HubertModel(tok.encoder.model.config).eval()  # as transformers has it: ours multiplies by oneDNN
    encoder.load_state_dict(tok.encoder.model.state_dict())
    centroids = torch.from_numpy(tok.codebook.centroids)
    cutting = scoring = 0.0
    found: Sides = {}
    for suite in suites:
        for start in range(0, len(suite.pairs), BATCH):
            pairs = suite.pairs[start : start + BATCH]
            for names in ([p.positive for p in pairs], [p.negative for p in pairs]):
                began = clock()
                clips: list[Clip] = [load(suite.clips[i], sample_rate=tok.spec.sample_rate, id=i) for i in names]
                waves = pad_sequence([torch.from_numpy(clip.samples) for clip in clips], batch_first=True)
                features = encoder(waves).last_hidden_state
                frames = torch.cdist(features, centroids[None]).argmin(-1)
                rows = []
                for clip, line in zip(clips, frames, strict=True):
                    units = torch.unique_consecutive(line[: tok.n_frames(len(clip.samples))])
                    rows.append(torch.cat([torch.tensor([1]), units + 2]))
                cut = clock()
                tokens = pad_sequence(rows, batch_first=True)
                mask = pad_sequence([torch.ones_like(row) for row in rows], batch_first=True)
                logits = lm.model(input_ids=tokens, attention_mask=mask).logits
                chosen = logits[:, :-1].log_softmax(-1).gather(2, tokens[:, 1:, None])[..., 0] * mask[:, 1:]
                for i, row, total in zip(names, rows, chosen.sum(1), strict=True):
                    found[f"{suite.name}/{i}"] = (float(total), len(row) - 1)
                cutting += cut - began
                scoring += clock() - cut
    return (cutting, scoring), found


def main() -> None:
    """Print one line for each way and the ratio, the median over rounds."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=48, help="of each suite, spread over it")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--cpu-time", action="store_true", help="count seconds of the CPU, not of the clock")
    options = parser.parse_args()
    clock = time.process_time if options.cpu_time else time.perf_counter
    suites = []
    for suite in map(open_suite, BUNDLED):
        step = max(1, len(suite.pairs) // options.pairs)
        suites.append(dataclasses.replace(suite, pairs=suite.pairs[::step][: options.pairs]))
    n_pairs = sum(len(suite.pairs) for suite in suites)
    tok = SpeechTokenizer.load("mini-25hz-100-fourth")
    vocab = Vocab(tok.spec.n_units)
    torch.manual_seed(0)
    lm = UnitLM(from_config(LlamaConfig(vocab_size=vocab.size, **SHAPE)).eval(), vocab, tok.spec, {})
    times: dict[str, list[Seconds]] = {"straightforward": [], "ours": []}
    for _ in range(options.rounds):
        for name, way in (("straightforward", straightforward), ("ours", ours)):
            seconds, scores = way(tok, lm, suites, clock)
            times[name].append(seconds)
            if name == "straightforward":
                reference = scores
    same = [i for i in scores if scores[i][1] == reference[i][1]]
    worst = max(abs(scores[i][0] - reference[i][0]) / scores[i][1] for i in same)
    print(f"{', '.join(s.name for s in suites)}: {n_pairs} pairs; torch on {torch.get_num_threads()} threads")
    for name, taken in times.items():
        cutting, scoring = np.median(np.array(taken), axis=0)
        total = np.median(np.array(taken).sum(axis=1))
        print(f"{name:16} {n_pairs / total:7.2f} pairs/s   tokenizing {cutting:.2f} s, scoring {scoring:.2f} s")
    ratios = np.array(times["straightforward"]).sum(axis=1) / np.array(times["ours"]).sum(axis=1)
    spread = ", ".join(f"{ratio:.2f}" for ratio in ratios)
    print(f"ratio {np.median(ratios):.2f} x (rounds: {spread}); bar {BAR:g}")
    print(f"as many units in {len(same)} of {len(scores)} clips; there, worst difference {worst:.1e} nats a token")


if __name__ == "__main__":
    main()
