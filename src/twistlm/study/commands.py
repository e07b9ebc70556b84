"""What a quickstart's report offers to do next: commands of its own run, ready to paste."""

from __future__ import annotations

import dataclasses
import json
import shlex
from typing import Any

from twistlm import recipes
from twistlm.config import QuickstartConfig, to_dict


def commands(config: QuickstartConfig) -> list[tuple[str, str]]:
    """What to do next, ready to paste."""
    warm, cold = (shlex.quote(f"{config.out}/{side}") for side in ("warm", "cold"))
    sides = [dataclasses.replace(run, updates=5 * run.updates) for run in (config.warm, config.cold)]
    more = dataclasses.replace(config, warm=sides[0], cold=sides[1])
    longer = [f"--set {shlex.quote(change)}" for change in _changes(more)]
    return [
        ("Hear what the units keep of any recording", f"twist resynth my.wav --out again.wav --units-of {warm}"),
        ("Let the warm model continue a recording", f"twist generate {warm} my.wav --out continued.wav"),
        ("Judge it on everything that is bundled", f"twist eval {warm} --against {cold}"),
        ("Run the whole loop on your own speech", "twist quickstart --speech my-speech --out runs/mine"),
        ("Train both sides for longer", " ".join(["twist quickstart --out runs/longer", *longer])),
    ]


def _changes(config: QuickstartConfig) -> list[str]:
    """What `--set` makes this configuration of the recipe "quickstart", but for where it goes."""
    usual, found = recipes.quickstart(), []
    for name, value in to_dict(config).items():
        before = to_dict(usual)[name]
        if isinstance(value, dict):
            found += [f"{name}.{key}={_toml(inner)}" for key, inner in value.items() if inner != before[key]]
        elif value != before and name != "out":
            found.append(f"{name}={_toml(value)}")
    return found


def _toml(value: Any) -> str:
    """A value as `override` reads it; text without quotes."""
    return value if isinstance(value, str) else json.dumps(value)
