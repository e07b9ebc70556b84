"""Planning a study of samples in folders: what `twist listen plan` does."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from twistlm.listen.plan import plan
from twistlm.listen.request import Request
from twistlm.listen.samples import find_samples


def plan_study(
    samples: Sequence[str],
    out: Path,
    request: Request,
    *,
    natural: Path | None,
    prompts: Path | None,
    progress: bool,
) -> dict[str, Any]:
    """Plan a study of the samples in folders: `listen.plan.plan`, without the files' checksums in what it returns."""
    facts = plan(find_samples(samples), out, request, natural=natural, prompts=prompts, progress=progress)
    return {name: value for name, value in facts.items() if name != "sources"}


def said(facts: dict[str, Any]) -> str:
    """Return what was planned, in words."""
    per_rater = len(facts["conditions"]) * facts["clips_per_system"]
    whole = facts["raters"] % facts["lap"] == 0
    even = "" if whole else f" (up to one; exactly so with a multiple of {facts['lap']} raters)"
    what = "clips" if facts["design"] == "mos" else "pairs"
    kept = facts["kept_items"]
    lower = (
        "" if facts["lufs"] == facts["lufs_wanted"] else f", not {facts['lufs_wanted']:g}: peaks of a clip forbid it"
    )
    state = "planned" if facts["written"] else "was there, unchanged"
    return "\n".join(
        [
            f"{facts['out']}: {state}",
            f"{len(facts['systems'])} systems, {len(facts['items'])} items, {facts['raters']} raters with {per_rater} "
            f"{what} each: every one of them rated {facts['ratings_per_clip']} times{even}",
            f"and {len(kept['training'])} to practise, {len(kept['gold'])} gold and {len(kept['trap'])} trapping ones; "
            f"about {facts['minutes']:g} minutes",
            f"loudness {facts['lufs']:g} LUFS{lower}; {facts['sample_rate']:,} Hz",
            f"edit {facts['out']}/texts, above all who runs the study and whom to ask, and then: "
            f"twist listen serve {facts['out']}",
        ]
    )
