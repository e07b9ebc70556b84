"""Does the official ZeroSpeech tool accept our submission folders, and does it find the scores that we find?

    .venv/bin/python runs/official_validator.py WORK

Makes an environment of its own in WORK (the tool, zerospeech-benchmarks 0.9.4, is GPL: it is run, never imported), data
sets laid out like sLM21 and ProsAudit with random scores, our submissions of both, and lets `zrc benchmarks:run`
validate and score them. Exits with an error if it refuses one, if it takes one that lacks a line, or if one of its
scores differs from ours by more than its four decimals. The tool wants pandas below 2.2, and no network: its index of
data sets is written here, and old enough that it does not ask for a newer one.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import random
import shutil
import subprocess
import sys
import venv
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from suite_standins import make_prosaudit, make_sblimp, make_swuggy
from twistlm.evaluate.averages import ScoredPairs, averages
from twistlm.evaluate.suites.zerospeech import prosaudit, sblimp, swuggy, write_submission

PACKAGES = ("zerospeech-benchmarks==0.9.4", "pandas<2.2", "numpy<2")
PARTS = {
    "sLM21-dataset": {f"{t}_{split}": f"{t}/{split}" for t in ("lexical", "syntactic") for split in ("dev", "test")},
    "prosaudit-dataset": {f"english_{split}": f"english/{split}" for split in ("dev", "test")},
}  # fmt: skip


def make(work: Path) -> dict[str, dict[str, float]]:
    """Write data sets and submissions below `work`; return suite -> group -> our score."""
    data, rng = work / "zr-data" / "datasets", random.Random(0)
    files: dict[str, dict[str, float]] = {}
    found: dict[str, dict[str, float]] = {}
    for split in ("dev", "test"):
        for build, read, base in (
            (make_swuggy, swuggy, "sLM21-dataset"),
            (make_sblimp, sblimp, "sLM21-dataset"),
            (make_prosaudit, prosaudit, "prosaudit-dataset"),
        ):
            build(data / base, split)
            suite = read(data / base, split)
            sides = {i: (-rng.choice([3.0, 4.0, 5.0, 6.0]), rng.choice([2, 3])) for i in suite.wanted()}
            facts = {"suite": suite.name, "version": "", "checksum": "", "unit_spec": ""}
            scored = ScoredPairs.join(suite, sides, facts)
            files[suite.submission] = scored.by_clip("mean")
            found[suite.name] = {g: s.value for g, s in averages(scored, normalize="mean", seed=0).items()}
    for benchmark in ("sLM21", "prosAudit"):
        chosen = {k: v for k, v in files.items() if k.startswith("english") == (benchmark == "prosAudit")}
        write_submission(work / "submissions" / benchmark, chosen, benchmark=benchmark)
    for base, parts in PARTS.items():
        folder = data / base
        subsets = {
            name: {"items": {
                "wav_list": {"item_type": "filelist_item", "file_type": "wav", "relative_path": True,
                             "files_list": sorted(str(p.relative_to(folder)) for p in (folder / part).glob("*.wav"))},
                "gold": {"item_type": "file_item", "file_type": "csv", "relative_path": True,
                         "file": f"{part}/gold.csv"},
            }}
            for name, part in parts.items()
        }  # fmt: skip
        (folder / "index.json").write_text(json.dumps({"subsets": subsets}))
    item = {"type": "internal", "zip_url": "http://localhost/none.zip", "md5sum": "0", "total_size": 1}
    index = {"last_modified": "2023-01-01T00:00:00", "datasets": [item | {"name": base} for base in PARTS]}
    repository = work / "zr-data" / "repo.json"
    repository.write_text(json.dumps(index | {"checkpoints": [], "samples": []}))
    os.utime(repository, (1.7e9, 1.7e9))
    return found


def zrc(work: Path, benchmark: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Let the tool validate and score a submission; semantic scores of sLM21 are no part of ours."""
    command = [work / "venv/bin/zrc", "benchmarks:run", benchmark, folder, "--sets", "dev", "test"]
    command += ["--tasks", "lexical", "syntactic"] if benchmark == "sLM21" else []
    environment = os.environ | {"APP_DIR": str(work / "zr-data")}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def official(scores: Path, split: str) -> dict[str, dict[str, float]]:
    """Return suite -> group -> the tool's score, under our names."""

    def table(name: str) -> list[dict[str, str]]:
        with (scores / name).open(newline="") as file:
            return [row for row in csv.DictReader(file) if row["score"]]

    if (scores / f"score_prosodic_english_{split}_by_type.csv").is_file():
        types = table(f"score_prosodic_english_{split}_by_type.csv")
        return {f"prosaudit-{split}": {f"type={row['type']}": float(row["score"]) for row in types}}
    found = {}
    for suite, task, kinds in (("swuggy", "lexical", ("frequency", "length")), ("sblimp", "syntactic", ("type",))):
        pairs = [float(row["score"]) for row in table(f"score_{task}_{split}_by_pair.csv")]
        groups = {"all": sum(pairs) / len(pairs)}
        for kind in kinds:
            rows = table(f"score_{task}_{split}_by_{kind}.csv")
            groups |= {f"{kind}={row[kind]}": float(row["score"]) for row in rows}
            if kind == "frequency":
                known = [(float(row["score"]), int(row["n"])) for row in rows if row[kind] != "oov"]
                groups["vocabulary=in"] = sum(s * n for s, n in known) / sum(n for _, n in known)
        found[f"{suite}-{split}"] = groups
    return found


def main(work: Path) -> None:
    """Do all of it and print what was found."""
    ours = make(work)
    if not (work / "venv/bin/zrc").is_file():
        venv.create(work / "venv", with_pip=True)
        subprocess.run([work / "venv/bin/pip", "install", "-q", *PACKAGES], check=True)
    differences = []
    for benchmark in ("sLM21", "prosAudit"):
        folder = work / "submissions" / benchmark
        run = zrc(work, benchmark, folder)
        assert run.returncode == 0 and "Submission Valid" in run.stdout, run.stdout + run.stderr
        for split in ("dev", "test"):
            for suite, groups in official(folder / "scores", split).items():
                differences += [abs(score - ours[suite][group]) for group, score in groups.items()]
        damaged = work / "damaged" / benchmark
        shutil.rmtree(damaged, ignore_errors=True)
        shutil.copytree(folder, damaged)
        file = next(damaged.rglob("*dev.txt"))
        file.write_text("".join(file.read_text().splitlines(keepends=True)[1:]))
        assert "Submission Valid" not in zrc(work, benchmark, damaged).stdout, f"{benchmark}: took half a submission"
        print(f"{benchmark}: valid; without one line: refused")
    print(f"{len(differences)} official scores, largest difference to ours {max(differences):.1e}")
    assert max(differences) < 5.1e-5  # the tool writes four decimals


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path, help="folder to make; 400 MB")
    main(parser.parse_args().work.resolve())
