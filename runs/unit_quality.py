"""The quality of every bundled tokenizer, each beside MFCC k-means of its size and frame rate, as Markdown tables.

    python runs/unit_quality.py

On three voices that nothing was trained on (flite's own phones) and on five clips of LibriVox (phones by forced
alignment); MFCC k-means is fitted on the speech of the tokenizers. All speech is that of runs/assets.sh, in
.assets-work. Pairs of tokenizers have a paired ratio of their PNMIs on the unseen voices. What is measured stays in
runs/unit_quality/ (quality.json, clips.parquet, report.html), and only another tokenizer is measured again.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch

from twistlm.corpus.manifest import Entry, load
from twistlm.files.artifacts import bundled
from twistlm.jobs.unit_quality import MFCC, unit_quality_of
from twistlm.units.catalogue import read_spec

UNSEEN = ("rms", "rms-x88", "rms-x118")
PAIRS = (  # a newer encoder's and an older one's; one encoder at two frame rates
    ("mini-25hz-100-fourth", "mini-25hz-100"),
    ("mini-50hz-100", "mini-25hz-100-fourth"),
    ("mini-50hz-200", "mini-25hz-200"),
    ("mini-50hz-500", "mini-25hz-500"),
)
DISTURBED = ("noise 20 dB", "noise 10 dB", "noise 0 dB", "12 dB softer", "room", "MP3", "Opus")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="tokenizers; all that are bundled when there are none")
    parser.add_argument("--work", type=Path, default=Path(".assets-work"))
    parser.add_argument("--out", type=Path, default=Path("runs/unit_quality"))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    names = args.names or [folder.name for folder in bundled("tokenizer").iterdir()]
    names.sort(key=lambda name: (-read_spec(name).hop, read_spec(name).n_units, name))
    unseen = [entry for entry in load(args.work / "gold" / "manifest.jsonl") if entry.speaker in UNSEEN]
    for title, folder, entries in (
        ("Unseen voices", "gold", unseen),
        ("LibriVox", "real", load(args.work / "real" / "manifest.jsonl")),
    ):
        found = [measured(name, entries, folder, args) for name in names]
        print(f"\n{title}: {found[0]['speech']['clips']} clips, {found[0]['speech']['seconds'] / 60:.1f} minutes\n")
        print(tables(found))
    pairs = [pair for pair in PAIRS if pair[0] in names]
    ratios = [measured(name, unseen, "gold", args, against=other)["pnmi_ratio"] for name, other in pairs]
    rows = [[f"`{name}` over `{other}`", number(ratio)] for (name, other), ratio in zip(pairs, ratios, strict=True)]
    print("\n" + "\n".join(table(["PNMI on unseen voices", "ratio"], rows)))


def measured(
    name: str, entries: list[Entry], folder: str, args: argparse.Namespace, *, against: str = MFCC
) -> dict[str, Any]:
    """What `twist units quality` finds, kept for as long as the tokenizers are the same."""
    out = args.out / folder / (name if against == MFCC else f"{name}-over-{against}")
    wanted = [read_spec(tokenizer).fingerprint for tokenizer in (name, against) if tokenizer != MFCC]
    if (out / "quality.json").is_file():
        values = json.loads((out / "quality.json").read_text(encoding="utf-8"))
        found = [tok["unit_spec"] for tok in values["tokenizers"]]
        if found[: len(wanted)] == wanted and values["seed"] == args.seed:
            return values
    return unit_quality_of(
        entries, args.work / folder / "phones.jsonl", tokenizer=name, against=against,
        mfcc_speech=args.work / "tok" / "manifest.jsonl", seed=args.seed,
        robustness_clips=50 if against == MFCC else 0, out=out, progress=True,
    )  # fmt: skip


def tables(found: list[dict[str, Any]]) -> str:
    """Agreement, ABX, rates, speakers and disturbances; MFCC's where a tokenizer has them for its neighbour."""
    columns = [(values["tokenizers"][0], values["pnmi_ratio"]) for values in found]
    baselines = {tok["unit_spec"]: tok for tok in (values["tokenizers"][1] for values in found)}
    columns += [(tok, None) for tok in baselines.values()]
    head = ["units", "PNMI", "times MFCC's", "shuffled", "phone purity", "cluster purity", "used"]
    rows = [
        [
            label(tok), number(tok["pnmi"]), number(ratio, 2), f"{tok['pnmi_shuffled']:.3f}",
            number(tok["phone_purity"]), number(tok["cluster_purity"]), f"{tok['usage']['used']:.0%}",
        ]
        for tok, ratio in columns
    ]  # fmt: skip
    second = [
        "units",
        "ABX within, units",
        "across",
        "within, features",
        "across",
        "units/s",
        "bits/s",
        "speaker named",
    ]
    rates = [
        [
            label(tok), *(share(tok["abx"][f"{what}_{who}"]) for what in ("units", "features") for who in SPEAKERS),
            number({"value": tok["usage"]["units_per_second"], "ci": tok["usage"]["units_per_second_ci"]}, 1),
            f"{tok['usage']['bits_per_second']:.0f}", share(tok["speaker_probe"]),
        ]
        for tok, _ in columns
    ]  # fmt: skip
    third = [[label(tok), *(share(tok["robustness"][what]) for what in DISTURBED)] for tok, _ in columns]
    return "\n".join([*table(head, rows), "", *table(second, rates), "", *table(["units kept in", *DISTURBED], third)])


SPEAKERS = ("within", "across")


def label(tok: dict[str, Any]) -> str:
    rate = tok["spec"]["sample_rate"] // tok["spec"]["hop"]
    return f"MFCC, {tok['spec']['n_units']} at {rate} Hz" if tok["tokenizer"] == MFCC else f"`{tok['tokenizer']}`"


def number(cell: dict[str, Any] | None, digits: int = 3) -> str:
    if cell is None:
        return ""
    low, high = cell["ci"]
    return f"{cell['value']:.{digits}f}" + ("" if low is None else f" [{low:.{digits}f}, {high:.{digits}f}]")


def share(cell: dict[str, Any] | None) -> str:
    return "" if cell is None else number({"value": 100 * cell["value"], "ci": [e and 100 * e for e in cell["ci"]]}, 1)


def table(head: list[str], rows: list[list[str]]) -> list[str]:
    return [f"| {' | '.join(cells)} |" for cells in [head, ["---"] * len(head), *rows]]


if __name__ == "__main__":
    main()
