"""How good units are: what they keep of phones, how much they cost, what they betray of the speaker, what moves them.

`alignment` reads gold phones, `agreement` compares them with units (PNMI, purities), `abx` asks whether phones can be
told apart, `usage` counts bits and units, `leakage` looks for the speaker, `robustness` disturbs the sound.
"""

from __future__ import annotations

from twistlm.units.quality.agreement import Agreement, UnitQuality, agreement, unit_quality
from twistlm.units.quality.alignment import phones_at, read_alignments

__all__ = ["Agreement", "UnitQuality", "agreement", "phones_at", "read_alignments", "unit_quality"]
