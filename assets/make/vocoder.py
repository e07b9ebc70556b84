"""Make a vocoder of one synthetic voice or several, from recordings and a tokenizer. The bundled one, of two voices, is
made by runs/assets.sh: one voice first,

    python assets/make/vocoder.py --pairs-manifest .assets-work/slt --updates 12000 \
        --tokenizer assets/tokenizer/mini-25hz-500 --out .assets-work/one-voice

then both from there. The faster one that docs/results/vocoder_generators.md compares it with, by

    python assets/make/speech.py twins --out .assets-work/twins --hours 4
    python assets/make/vocoder.py --pairs-manifest .assets-work/twins --twins slt awb --generator istft \
        --tokenizer mini-25hz-500 --out .assets-work/two-voices --frames 32 --updates 16000 --threads 1

With --twins the folder is one of two voices (`speech.py twins`), each text said by another voice too. The voices that
are named are learnt, in one vocoder, the first of them speaks where none is asked for. Each is learnt from its own
units and, again, from those of the other readings, laid where the voice says the same phone: so the vocoder hears what
units other speakers give, and still says it in its own voice.

It starts from random weights, or with --start-from from another vocoder: several voices begin as that one's. With
--start-tokenizer it is one of another tokenizer: all of the generator stays, and each new unit begins with the mean
embedding of the old units it is heard together with.

Everything is kept in --work: a killed run goes on where it was, and --export writes what there is so far.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
import time
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from twistlm.audio.clip import Clip, read
from twistlm.compute.threads import in_order
from twistlm.corpus.manifest import Entry, load
from twistlm.files.atomic import atomic_write
from twistlm.progress import track
from twistlm.types import Units, UnitSpec
from twistlm.units.runs import dedup
from twistlm.units.tokenizer import SpeechTokenizer
from twistlm.vocoder.crops import Crops, heldout_distance
from twistlm.vocoder.durations import DurationConfig
from twistlm.vocoder.generator import InputShape
from twistlm.vocoder.hifigan import HiFiGANConfig
from twistlm.vocoder.istft import istft_like
from twistlm.vocoder.mel import SpectralLoss
from twistlm.vocoder.train import train_vocoder, training_step, with_voices
from twistlm.vocoder.training_state import VocoderConfig
from twistlm.vocoder.vocoder import Vocoder
from twistlm.vocoder.voices import Voice

HOP, RATE = 640, 16_000
OTHER = "-other"  # behind the id of the other reading of a text, see speech.py
HELDOUT = 24  # clips at the end of the manifest that are never trained on
Pair = tuple[Units, NDArray[np.float32]]

MODEL = HiFiGANConfig(
    num_embeddings=500,  # replaced by the tokenizer's
    embedding_dim=128,
    model_in_dim=128,
    # Wide where frames are few and narrow at the waveform, and one residual block a stage: on a CPU four times as fast
    # as one with a wide waveform stage and several blocks.
    upsample_rates=(5, 2, 2, 4, 8),
    upsample_kernel_sizes=(11, 4, 4, 8, 16),
    upsample_initial_channel=512,
    resblock_kernel_sizes=(3,),
    resblock_dilation_sizes=((1, 3, 5),),
    sampling_rate=RATE,
    dur_predictor_params=DurationConfig(
        encoder_embed_dim=128, var_pred_hidden_dim=128, var_pred_kernel_size=3, var_pred_dropout=0.1
    ),
)

SHAPES: dict[str, InputShape] = {"hifigan": MODEL, "istft": istft_like(MODEL)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs-manifest", type=Path, required=True, help="folder of one voice with a manifest.jsonl")
    parser.add_argument("--twins", metavar="VOICE", nargs="+", help="which voices of a folder of twins to learn")
    parser.add_argument("--texts", type=int, help="of each of the twins' voices, the first so many; default: all")
    parser.add_argument("--generator", choices=SHAPES, default="hifigan")
    parser.add_argument("--tokenizer", required=True, help="name or folder")
    length = parser.add_mutually_exclusive_group()
    length.add_argument("--minutes", type=float, help="train about so long, by a measurement at the start")
    length.add_argument("--updates", type=int, help="train exactly so many updates")
    parser.add_argument("--adversarial-share", type=float, default=0.0, help="share of the time that has critics")
    parser.add_argument("--frames", type=int, default=16, help="of a crop, 4 to an update")
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--out", type=Path, default=Path("assets/vocoder/mini-25hz-500"), help="folder to write")
    parser.add_argument("--start-from", type=Path, help="folder of a vocoder to start from")
    parser.add_argument("--start-tokenizer", help="name or folder of its tokenizer, where that is another one")
    parser.add_argument("--work", type=Path, default=Path(".assets-work/vocoder"))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--export", action="store_true", help="train no further, write what the checkpoint holds")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)

    entries = load(options.pairs_manifest)
    if options.twins:
        entries = of_voices(entries, options.twins, options.texts)
    waves = [read(e.path).samples for e in track(entries, description="read", enabled=True)]
    spec, units = tokenized(entries, waves, options.tokenizer, options.work)
    start = None
    if options.start_from and not options.start_tokenizer:
        start = Vocoder.load(options.start_from).synthesizer.weights()
    elif options.start_from:
        _, old = tokenized(entries, waves, options.start_tokenizer, options.work)
        start = carried_over(units, old, Vocoder.load(options.start_from))
    if start and options.twins:
        start = with_tables(start, with_voices(MODEL, [Voice(speaker=name) for name in options.twins])[0])
    pairs = list(zip(units, waves, strict=True))
    voices = [Voice(speaker=e.speaker) for e in entries] if options.twins and len(options.twins) > 1 else None
    if options.twins:
        others = sum(e.id.endswith(OTHER) for e in entries)
        made = relaid(pairs[:others], pairs[others:], options.pairs_manifest)
        if voices:  # a reading that is laid onto a voice is spoken by that voice
            speaker = {e.id: e.speaker for e in entries[others:]}
            voices = [Voice(speaker=speaker[units.id.removesuffix(OTHER)]) for units, _ in made] + voices[others:]
        pairs = [*made, *pairs[others:]]
    train, heldout = pairs[:-HELDOUT], pairs[-HELDOUT:]

    suffix = "" if options.generator == "hifigan" else f"-{options.generator}"
    if options.start_from:
        suffix += "-" + hashlib.sha256((options.start_from / "model.safetensors").read_bytes()).hexdigest()[:8]
    run = options.work / f"vocoder-{spec.fingerprint}{suffix}"
    config = resolve_config(run, options, train, spec)
    stop = json.loads((run / "checkpoint" / "state.json").read_text())["update"] if options.export else None
    began = time.monotonic()
    vocoder = train_vocoder(
        train, spec, config, run, heldout=heldout, start=start, progress=True, stop_after=stop,
        voices=voices and voices[:-HELDOUT], heldout_voices=voices and voices[-HELDOUT:],
    )  # fmt: skip
    if voices:
        vocoder = vocoder.speaking_as(speaker=options.twins[0])
    vocoder.save(options.out)
    seconds = time.monotonic() - began
    vocoder = Vocoder.load(options.out)  # what is measured is what ships, rounded to half precision
    measured = measure(vocoder, heldout, voices and voices[-HELDOUT:], entries[-HELDOUT:], options.threads)
    history = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    text = card(
        vocoder, config, entries, measured, history[-1]["update"], stage_of(options), options.threads
    )  # fmt: skip
    vocoder.save(options.out, card=text)
    print(json.dumps({"updates": history[-1]["update"], "seconds": round(seconds), **measured}))


def of_voices(entries: list[Entry], voices: list[str], texts: int | None) -> list[Entry]:
    """The first readings of those voices and the other ones of what is trained on, these first; at the end HELDOUT."""
    own = {voice: [e for e in entries if e.speaker == voice and not e.id.endswith(OTHER)][:texts] for voice in voices}
    last = HELDOUT // len(voices)
    train = [e for readings in own.values() for e in readings[:-last]]
    wanted = {f"{e.id}{OTHER}" for e in train}
    return [
        *(e for e in entries if e.id in wanted), *train, *(e for readings in own.values() for e in readings[-last:])
    ]  # fmt: skip


def stage_of(options: argparse.Namespace) -> str:
    if options.start_from is None:
        return "from random weights"
    return (
        "from the vocoder of an earlier tokenizer"
        if options.start_tokenizer
        else "from an earlier vocoder of these units"
    )


def tokenized(
    entries: list[Entry], waves: list[NDArray[np.float32]], name: str, work: Path
) -> tuple[UnitSpec, list[Units]]:
    """The tokenizer's units of all clips, kept in the work folder."""
    tok = SpeechTokenizer.load(name)
    cache = work / f"units-{tok.spec.fingerprint}.npz"
    if not cache.exists():
        clips = [Clip(samples=wave, sample_rate=RATE, id=e.id) for e, wave in zip(entries, waves, strict=True)]
        frames = list(in_order(lambda clip: tok(clip).frames, track(clips, description="tokenize", enabled=True)))
        with atomic_write(cache) as path:
            np.savez(path, **{e.id: f for e, f in zip(entries, frames, strict=True)})
    kept = np.load(cache)
    return tok.spec, [Units(*dedup(kept[e.id]), spec=tok.spec, id=e.id) for e in entries]


def relaid(others: list[Pair], own: list[Pair], folder: Path) -> list[Pair]:
    """The waveforms of `own` readings with the units of the `others` of the same texts, phone by phone.

    A frame of the own reading gets the unit that the other reading has as far into the same phone. A reading whose
    phones are others is left out, and how many were is said.
    """
    told = {row["id"]: row["phones"] for row in map(json.loads, (folder / "phones.jsonl").read_text().splitlines())}
    of = {units.id: (units, wave) for units, wave in own}
    made = []
    for units, _ in others:
        mine, wave = of[units.id.removesuffix(OTHER)]
        to, what = told[mine.id], told[units.id]
        if [phone for phone, *_ in to] != [phone for phone, *_ in what]:
            continue
        edges, theirs = ([start for _, start, _ in phones] + [phones[-1][2]] for phones in (to, what))
        middles = (np.arange(len(mine.frames)) + 0.5) * HOP / RATE
        at = (np.interp(middles, edges, theirs) * RATE / HOP).astype(int).clip(0, len(units.frames) - 1)
        made.append((Units(*dedup(units.frames[at]), spec=units.spec, id=units.id), wave))
    print(f"{len(made)} of {len(others)} other readings laid onto the voice's")
    return made


def carried_over(units: list[Units], old: list[Units], earlier: Vocoder) -> dict[str, Tensor]:
    """An earlier vocoder's weights, with embeddings for these units in place of the `old` ones of the same clips."""
    weights = earlier.synthesizer.weights()
    counts = np.zeros((units[0].spec.n_units, earlier.spec.n_units))  # [new, old]
    for new, was in zip(units, old, strict=True):
        n = min(len(new.frames), len(was.frames))
        np.add.at(counts, (new.frames[:n], was.frames[:n]), 1)
    counts += 1e-3 * counts.sum(0) / counts.sum()  # a unit that is never heard begins with the mean of all
    shares = torch.from_numpy(counts / counts.sum(1, keepdims=True)).float()
    return {**weights, "dict.weight": shares @ weights["dict.weight"]}


def with_tables(weights: dict[str, Tensor], shape: InputShape) -> dict[str, Tensor]:
    """One voice's weights for a vocoder of several: it begins with speaking all of them in that one's voice."""
    weights = dict(weights)
    draws = torch.Generator().manual_seed(0)
    for table in shape.tables:
        if f"{table.name}.weight" not in weights:
            weights[f"{table.name}.weight"] = torch.randn(table.rows, table.width, generator=draws)
            first = weights["conv_pre.weight"]  # [out, in, kernel]; the tables' channels come last
            weights["conv_pre.weight"] = torch.cat([first, first.new_zeros(len(first), table.width, first.shape[2])], 1)
    return weights


def resolve_config(run: Path, options: argparse.Namespace, train: list[Pair], spec: UnitSpec) -> VocoderConfig:
    """The run's config: as kept beside it, or made from the options, with --minutes turned into updates by timing."""
    path = run / "run.json"
    model: InputShape = dataclasses.replace(SHAPES[options.generator], num_embeddings=spec.n_units)
    if options.twins:
        model, _ = with_voices(model, [Voice(speaker=name) for name in options.twins])
    if not path.exists():
        share = options.adversarial_share
        updates = options.updates
        if updates is None:
            if options.minutes is None:
                raise SystemExit("give --minutes or --updates")
            one = dataclasses.replace(SHAPES[options.generator], num_embeddings=spec.n_units)  # as fast as several
            probe = VocoderConfig(model=one, updates=1, adversarial_from=1, rows=4, frames=options.frames)
            plain = seconds_per_update(probe, train[:50], spec)
            adversarial = seconds_per_update(dataclasses.replace(probe, adversarial_from=0), train[:50], spec)
            updates = int(options.minutes * 60 * ((1 - share) / plain + share / adversarial))
            share = share / adversarial / ((1 - share) / plain + share / adversarial)  # of the updates
            print(f"{plain:.3f} s an update, {adversarial:.3f} with critics: {updates} updates")
        run.mkdir(parents=True, exist_ok=True)
        critics = round(updates * (1 - share))
        chosen = {
            "updates": updates,
            "adversarial_from": critics,
            "frames": options.frames,
            "lr": options.lr,
            "lr_floor": options.lr / 20,
            "checkpoint_every": 500,
        }
        with atomic_write(path) as temporary:
            temporary.write_text(json.dumps(chosen))
    return VocoderConfig(model=model, rows=4, **json.loads(path.read_text()))


def seconds_per_update(config: VocoderConfig, pairs: list[Pair], spec: UnitSpec) -> float:
    """Median time of an update, after a few to warm up."""
    crops = Crops(pairs, spec)
    step = training_step(config)
    times = []
    for update in range(12):
        began = time.monotonic()
        step(crops.batch(update, rows=config.rows, frames=config.frames, seed=0))
        times.append(time.monotonic() - began)
    return float(np.median(times[3:]))


def measure(
    vocoder: Vocoder, heldout: list[Pair], voices: list[Voice] | None, entries: list[Entry], threads: int
) -> dict[str, float]:
    """What the card says, on clips never trained on."""
    from twistlm.evaluate.asr import Whisper, wer

    whisper = Whisper.load(workers=threads)
    texts = [e.text for e in entries]

    def errors(clips: list[Clip]) -> float:
        return wer(texts, [*in_order(whisper.transcribe, clips)]).value

    units = [u for u, _ in heldout]
    rows = [[vocoder.voices.speakers[voice.speaker or ""]] for voice in voices] if voices else None
    numbers = {
        "heldout_mel": heldout_distance(vocoder.synthesizer, Crops(heldout, vocoder.spec, rows), SpectralLoss(RATE)),
        "wer_original": errors([Clip(wave, RATE) for _, wave in heldout]),
        "wer_given": errors(vocoder.batch(units, durations="given", voices=voices)),
        "wer_predicted": errors(vocoder.batch(units, durations="predicted", voices=voices)),
    }
    began = time.monotonic()
    spoken = sum(vocoder(u, durations="given").seconds for u in units)
    numbers["times_real_time"] = spoken / (time.monotonic() - began)
    predicted = sum(int(vocoder.predict_runs(u).sum()) for u in units)
    numbers["predicted_length"] = predicted / sum(int(u.runs.sum()) for u in units)
    return {name: round(value, 4) for name, value in numbers.items()}


def card(
    vocoder: Vocoder,
    config: VocoderConfig,
    entries: list[Entry],
    measured: dict[str, float],
    updates: int,
    stage: str,
    threads: int,
) -> str:
    """The model card."""
    own = [e for e in entries if not e.id.endswith(OTHER)]
    hours = sum(e.seconds or 0 for e in own) / 3600
    voices = " and ".join(sorted({e.speaker for e in own}))
    several = len({e.speaker for e in own}) > 1
    choice = f" (`--speaker`; {vocoder.voice.speaker} where none is named)" if several else ""
    some = "two voices" if several else "one voice"
    others = len(entries) - len(own)
    twins = (
        f" Also the units of {others} of these texts as other voices say them, laid onto these recordings."
        if others
        else ""
    )
    n_parameters = sum(p.numel() for p in vocoder.synthesizer.parameters())
    reach = vocoder.synthesizer.reach
    kind = {"hifigan": "Unit HiFi-GAN", "istft": "Blocks at the rate of frames and an inverse STFT"}[config.model.kind]
    critics = updates - config.adversarial_from
    judged = f", and critics in the last {critics} updates" if critics > 0 else " alone"
    return f"""# A vocoder for 25 Hz units

Speaks the units of `{vocoder.spec.encoder}` (unit spec `{vocoder.spec.fingerprint}`) at {RATE} Hz in {some}, synthetic:
{voices}{choice}.
{kind} with duration predictor, {n_parameters / 1e6:.2f} M parameters, stored in half precision;
it hears {reach.left} frames back and {reach.right} ahead.

- **Data**: {hours:.2f} h of {voices} of flite (its licence is BSD-like), in {len(own)} clips, of which
  the last {HELDOUT} were held out.{twins} Made by `assets/make/speech.py`.
- **Training**: {updates} updates of {config.rows} crops of {config.frames * HOP / RATE:.2f} s on a CPU, {stage};
  spectral losses{judged}. Recipe: `assets/make/vocoder.py`.
- **Licence**: MIT.

Measured on the held-out clips (same {"voices" if several else "voice"}):

| what | value |
|---|---|
| log-mel distance to the recording (nepers) | {measured["heldout_mel"]:.3f} |
| Whisper tiny.en WER of the recordings | {measured["wer_original"]:.3f} |
| … of the resynthesis, durations given | {measured["wer_given"]:.3f} |
| … of the resynthesis, durations predicted | {measured["wer_predicted"]:.3f} |
| predicted length / true length | {measured["predicted_length"]:.3f} |
| seconds of speech made per second, threads: {threads} | {measured["times_real_time"]:.1f} |

Limits: {some}, English read speech; pitch and emphasis of the source are not in the units and are made up.
"""


if __name__ == "__main__":
    main()
