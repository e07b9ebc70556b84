"""Speakers, styles and languages: chosen by name, trained together, never guessed."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from test_vocoder import CONFIG, SPEC, make_units, random_frames
from test_vocoder_train import CONFIG as TRAINING
from test_vocoder_train import SPEC as TONES
from test_vocoder_train import tones
from twistlm.errors import ArtifactError, BadInput, CheckpointError
from twistlm.vocoder.crops import Crops, heldout_distance
from twistlm.vocoder.mel import SpectralLoss
from twistlm.vocoder.synthesizer import Synthesizer
from twistlm.vocoder.train import train_vocoder, with_voices
from twistlm.vocoder.vocoder import Vocoder
from twistlm.vocoder.voices import Voice, Voices

NAMES = Voices(speakers={"ann": 0, "ben": 2}, styles={"calm": 1, "sad": 0})
UNITS = make_units(random_frames(30))


def voiced(names: Voices = NAMES, **changes: int) -> Vocoder:
    shape = dataclasses.replace(CONFIG, model_in_dim=18, num_speakers=3, num_styles=2, **changes)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return Vocoder(Synthesizer(shape).fold().eval(), SPEC, name="toy", voices=names)


def test_channels_are_units_speaker_style_and_a_name_is_its_row() -> None:
    voc = voiced()
    clip = voc(UNITS, durations="given", voice=Voice(speaker="ben", style="calm"))
    network = voc.synthesizer
    frames = torch.from_numpy(UNITS.frames.astype(np.int64))[None]
    tables = [network.weights()[f"{name}.weight"] for name in ("dict", "spkr", "style")]
    beside = [tables[0][frames[0]].T, tables[1][2][:, None].expand(-1, 30), tables[2][1][:, None].expand(-1, 30)]
    with torch.no_grad():
        expected = network.generator(torch.cat(beside)[None])[0]
    np.testing.assert_allclose(clip.samples, expected.numpy(), atol=1e-6)
    other = voc(UNITS, durations="given", voice=Voice(speaker="ann", style="calm"))
    assert np.abs(other.samples - clip.samples).max() > 1e-4


def test_nothing_is_guessed_and_nobody_unknown_speaks() -> None:
    voc = voiced()
    for voice, word in ((Voice(speaker="carl", style="sad"), "carl"), (Voice(speaker="ann"), "--style"),
                        (None, "--speaker"), (Voice(language="eng"), "language")):  # fmt: skip
        with pytest.raises(BadInput, match=word):
            voc(UNITS, durations="given", voice=voice)
        with pytest.raises(BadInput, match=word):
            voc.open_stream(durations="given", voice=voice)
    with pytest.raises(BadInput, match="do not say which"):
        voiced(Voices())(UNITS, durations="given")
    with pytest.raises(BadInput, match="there is none for"):
        voiced(Voices(speakers={"x": 3}))
    with pytest.raises(BadInput, match="carl"):
        voc.speaking_as(speaker="carl")
    one = voiced(Voices(speakers={"ben": 2}, styles={"calm": 1}))  # the only trained ones go without saying
    expected = voc(UNITS, durations="given", voice=Voice(speaker="ben", style="calm")).samples
    np.testing.assert_array_equal(one(UNITS, durations="given").samples, expected)


def test_batches_streams_and_files_keep_voices_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from twistlm.vocoder import vocoder as module

    voiced().save(tmp_path / "v")
    voc = Vocoder.load(tmp_path / "v")
    assert voc.voices == NAMES
    voices = [Voice(speaker=s, style=t) for s in ("ann", "ben") for t in ("calm", "sad")]
    many = [make_units(random_frames(20 + 30 * i, i)) for i in range(4)]
    alone = [voc(u, durations="predicted", voice=v).samples for u, v in zip(many, voices, strict=True)]
    monkeypatch.setitem(module.MOST, "cpu", 400)
    for clip, expected in zip(voc.batch(many, durations="predicted", voices=voices), alone, strict=True):
        np.testing.assert_allclose(clip.samples, expected, atol=1e-6)
    with pytest.raises(BadInput, match="4 clips were given 1 voices"):
        voc.batch(many, durations="given", voices=voices[:1])
    ben = voc.speaking_as(speaker="ben", style="sad")
    sound = np.concatenate([*ben.stream(many[3].ids.tolist(), durations="predicted")])
    np.testing.assert_allclose(sound, alone[3], atol=1e-6)
    ben.save(tmp_path / "v")  # with its own voice
    np.testing.assert_array_equal(
        Vocoder.load(tmp_path / "v")(many[3], durations="given").samples,
        Vocoder.load(tmp_path / "v")(many[3], durations="given", voice=Voice(speaker="ben", style="sad")).samples,
    )
    kept = json.loads((tmp_path / "v" / "voices.json").read_text())
    assert kept["voice"] == {"speaker": "ben", "style": "sad"}
    for own in ({"speaker": "carl"}, {"speaker": 2}):
        (tmp_path / "v" / "voices.json").write_text(json.dumps(kept | {"voice": own}))
        with pytest.raises(ArtifactError, match=r"voices\.json"):
            Vocoder.load(tmp_path / "v")
    (tmp_path / "v" / "voices.json").write_text('{"speakers": {"ann": "0"}}')
    with pytest.raises(ArtifactError, match=r"voices\.json"):
        Vocoder.load(tmp_path / "v")


def test_a_language_has_its_speakers() -> None:
    shape = dataclasses.replace(
        CONFIG, model_in_dim=6 + 4 + 5, num_languages=3, language_dim=4, num_speakers=7, speaker_dim=5
    )
    names = Voices(
        languages={"eng": 2, "fra": 0}, speakers={"3": 3, "5": 5, "6": 6}, of_language={"eng": ["5", "3"], "fra": ["6"]}
    )
    voc = Vocoder(Synthesizer(shape).fold().eval(), SPEC, name="toy", voices=names)
    said, by_default = (
        voc(UNITS, durations="given", voice=voice).samples
        for voice in (Voice(language="eng", speaker="5"), Voice(language="eng"))
    )
    np.testing.assert_array_equal(said, by_default)
    with pytest.raises(BadInput, match="languages"):
        voc(UNITS, durations="given")


def two_voices(n: int = 6) -> tuple[list, list[Voice]]:
    """Two speakers of the same units, one of them hardly to be heard."""
    pairs = tones(n)
    voices = [Voice(speaker=("loud", "soft")[i % 2]) for i in range(n)]
    loud = [
        (units, wave * (1.0 if voice.speaker == "loud" else 0.02))
        for (units, wave), voice in zip(pairs, voices, strict=True)
    ]
    return loud, voices


@pytest.mark.thorough
def test_several_speakers_are_trained_together_and_told_apart(tmp_path: Path) -> None:
    pairs, voices = two_voices()
    shape, named = with_voices(TRAINING.model, voices)
    assert (shape.num_speakers, shape.num_styles, shape.model_in_dim) == (2, 0, 16)
    assert named.speakers == {"loud": 0, "soft": 1}
    config = dataclasses.replace(TRAINING, model=shape, updates=50, adversarial_from=50, lr=1e-2)
    voc = train_vocoder(pairs, TONES, config, tmp_path / "run", voices=voices, heldout=pairs[:1],
                        heldout_voices=voices[:1])  # fmt: skip
    assert voc.voices == named
    spectral = SpectralLoss(16_000)
    own, others = (
        heldout_distance(voc.synthesizer, Crops(pairs, TONES, [[(row + shift) % 2] for row in (0, 1) * 3]), spectral)
        for shift in (0, 1)
    )
    assert others > own + 0.2  # nepers
    with pytest.raises(BadInput, match="tables of"):
        train_vocoder(pairs, TONES, TRAINING, tmp_path / "other", voices=voices)
    with pytest.raises(CheckpointError, match="data"):  # the same sounds by other speakers
        train_vocoder(pairs, TONES, config, tmp_path / "run", voices=voices[1:] + voices[:1])
    with pytest.raises(BadInput, match="some clips name"):
        with_voices(TRAINING.model, [Voice(speaker="a"), Voice()])
    imported = dataclasses.replace(
        TRAINING.model, num_speakers=3, speaker_dim=5, model_in_dim=TRAINING.model.embedding_dim + 5
    )
    again, _ = with_voices(imported, voices)
    assert again == shape and Synthesizer(again)  # new tables are as wide as that of the units


RANK = """
import sys, dataclasses
from datetime import timedelta
import torch
from torch import distributed as dist
from test_vocoder_voices import TONES, TRAINING, two_voices, with_voices
from twistlm.vocoder.train import train_vocoder
rank, ranks, root, name, stop = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4], sys.argv[5]
torch.set_num_threads(1)
if ranks > 1:
    dist.init_process_group("gloo", init_method=f"file://{root}/{name}-{stop}.store", rank=rank, world_size=ranks,
                            timeout=timedelta(seconds=100))
pairs, voices = two_voices()
config = dataclasses.replace(TRAINING, model=with_voices(TRAINING.model, voices)[0], rows=4, duration_updates=2)
voc = train_vocoder(pairs, TONES, config, f"{root}/{name}", voices=voices,
                    stop_after=None if stop == "no" else int(stop))
torch.save(voc.synthesizer.weights(), f"{root}/{name}-{rank}.pt")
if ranks > 1:
    dist.barrier()
    dist.destroy_process_group()
"""


@pytest.mark.slow
def test_two_ranks_train_as_one_process_and_go_on_exactly(tmp_path: Path) -> None:
    here = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])}

    def run(ranks: int, name: str, stop: str = "no") -> list[dict[str, torch.Tensor]]:
        started = [
            subprocess.Popen([sys.executable, "-c", RANK, str(i), str(ranks), str(tmp_path), name, stop], env=here)
            for i in range(ranks)
        ]
        assert [process.wait(timeout=200) for process in started] == [0] * ranks
        return [torch.load(tmp_path / f"{name}-{i}.pt") for i in range(ranks)]

    (alone,) = run(1, "alone")
    first, second = run(2, "pair")
    run(2, "stopped", "4")
    again, _ = run(2, "stopped")
    for name, weight in alone.items():
        assert torch.equal(first[name], second[name]) and torch.equal(first[name], again[name]), name
        torch.testing.assert_close(first[name], weight, atol=2e-4, rtol=2e-3)
    moved = max(float((first[name] - alone[name]).abs().max()) for name in alone)
    assert moved > 0  # sums in another order, so they did share the work
