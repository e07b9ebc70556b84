"""The clips of a folder that training may see."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path

from twistlm.audio.clip import Clip
from twistlm.corpus.manifest import Entry, build
from twistlm.corpus.sounds import Sounds
from twistlm.progress import track

RATE = 16_000


def clips_of(
    speech: str | Path, *, progress: bool, speakers: Collection[str] | None = None
) -> Iterator[tuple[Entry, Clip]]:
    """Yield the clips that training may see, of these speakers or of all."""
    entries = [e for e in build(speech) if e.split == "train" and (speakers is None or e.speaker in speakers)]
    with Sounds() as sounds:
        for entry in track(entries, description="reading the speech", enabled=progress):
            yield entry, sounds.fetch(entry).clip(sample_rate=RATE)
