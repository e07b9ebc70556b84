"""Where the memory of `twist serve` goes before any request, part by part.

    python benchmarks/serving_memory.py [MODEL]

The server is put together in this process as `twist serve` does, and after each part the process's memory is read from
Linux (/proc/self/smaps_rollup): resident, its proportional share, and of that what is no file's (allocated) and
what is (libraries, mapped weights). The highest (VmHWM) tells of copies made on the way. The reference is what the
weights themselves take in float32.
"""

from __future__ import annotations

import argparse
import ctypes
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any


def memory() -> dict[str, float]:
    """Return MB by name."""
    told = Path("/proc/self/smaps_rollup").read_text() + Path("/proc/self/status").read_text()
    return {name: int(n) * 1024 / 1e6 for name, n in re.findall(r"^(\w+):\s+(\d+) kB", told, re.M)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", default="mini-lm")
    given = parser.parse_args()
    print(f"{'part':44} {'resident':>9} {'share':>7} {'allocated':>10} {'of files':>9} {'highest':>8}   MB")

    def part(name: str, make: Callable[[], Any]) -> Any:
        made, now = make(), memory()
        columns = f"{now['Rss']:9.0f} {now['Pss']:7.0f} {now['Pss_Anon']:10.0f} {now['Pss_File']:9.0f}"
        print(f"{name:44} {columns} {now['VmHWM']:8.0f}", flush=True)
        return made

    def imports() -> None:
        import transformers

        import twistlm.jobs.serving
        import twistlm.serve.app
        import twistlm.units.tokenizer
        import twistlm.vocoder.vocoder  # noqa: F401

        assert transformers.PreTrainedModel is not None

    part("Python", lambda: None)
    part("torch", lambda: __import__("torch"))
    part("transformers, FastAPI, ours", imports)
    from twistlm.compute.threads import apart
    from twistlm.jobs.parts import parts_of_model
    from twistlm.jobs.serving import load_served
    from twistlm.lm.folders import load_model
    from twistlm.serve.engine import Engine, Room
    from twistlm.serve.limits import Limits
    from twistlm.serve.studio import Studio
    from twistlm.units.tokenizer import SpeechTokenizer
    from twistlm.vocoder.vocoder import Vocoder

    parts = parts_of_model(given.model, speaks=True)
    assert parts.tokenizer is not None and parts.vocoder is not None
    homes = parts.tokenizer.folder, parts.vocoder.folder
    lm = part("the model, alone, and dropped", lambda: apart(lambda: load_model(given.model)))
    weights = sum(p.numel() * p.element_size() for p in lm.model.parameters()) / 1e6
    del lm
    part("the tokenizer, alone, and dropped", lambda: apart(lambda: SpeechTokenizer.load(homes[0])) and None)
    part("the voice, alone, and dropped", lambda: apart(lambda: Vocoder.load(homes[1])) and None)
    served = part("all that is served", lambda: load_served({"model": Path(given.model)}, transcripts=False))
    engine = Engine(served.models, Room())
    part("the engine: int8 copies, weights laid out", engine.start)
    part("a rehearsal", Studio(served, engine, Limits()).rehearse)
    part("what the allocator held given back", lambda: ctypes.CDLL(None).malloc_trim(0))
    print(f"the model's weights in float32: {weights:.0f} MB")
    engine.close()


if __name__ == "__main__":
    main()
