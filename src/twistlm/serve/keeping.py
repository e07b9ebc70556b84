"""What `--keep` keeps: the prompt, the continuation, and what was asked, under names that the server makes."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from twistlm.audio.clip import Clip, write
from twistlm.files.atomic import atomic_write


def keep(folder: Path, prompt: Clip, continuation: Clip, record: dict[str, Any]) -> None:
    """Write `TIME-ID-prompt.wav`, `TIME-ID.wav` and, last, `TIME-ID.json`, each whole or not at all."""
    name = f"{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}-{continuation.id.removeprefix('resp_')}"
    write(prompt, folder / f"{name}-prompt.wav")
    write(continuation, folder / f"{name}.wav")
    with atomic_write(folder / f"{name}.json") as temporary:
        temporary.write_text(json.dumps(record) + "\n")
