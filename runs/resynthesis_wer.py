"""Word error rate of held-out clips before and after units and vocoder, as JSON.

python runs/resynthesis_wer.py --tokenizer mini-25hz-500 --vocoder mini-25hz-500 --split heldout_text
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import numpy as np

from twistlm.compute.threads import cores
from twistlm.corpus import manifest
from twistlm.evaluate.asr import Whisper
from twistlm.evaluate.resynthesis import resynthesis_errors
from twistlm.files.artifacts import bundled
from twistlm.units.tokenizer import SpeechTokenizer
from twistlm.vocoder.vocoder import Vocoder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--speech", type=Path, help="folder with a manifest and transcripts; default: the bundled")
    parser.add_argument("--tokenizer", default="mini-25hz-500")
    parser.add_argument("--vocoder", default="mini-25hz-500")
    parser.add_argument("--split", default="heldout_text", help="which clips")
    parser.add_argument("--n", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0, help="of the choice of clips and of the bootstrap")
    args = parser.parse_args()
    entries = [e for e in manifest.build(args.speech or bundled("speech")) if e.split == args.split and e.text]
    if not entries:
        parser.error(f"there are no clips with a transcript in the split {args.split}")
    chosen = np.sort(np.random.default_rng(args.seed).permutation(len(entries))[: args.n])
    values = resynthesis_errors(
        [entries[i] for i in chosen],
        SpeechTokenizer.load(args.tokenizer),
        Vocoder.load(args.vocoder),
        Whisper.load(workers=cores()),
        seed=args.seed,
        progress=sys.stderr.isatty(),
    )
    print(json.dumps({**values, "split": args.split, "speakers": len({entries[i].speaker for i in chosen})}, indent=1))


if __name__ == "__main__":
    main()
