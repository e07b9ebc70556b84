"""What there is of machine and installation, what is amiss, and what is slow here and why (`diagnose`)."""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
from collections.abc import Callable, Iterable
from importlib import metadata
from pathlib import Path
from typing import Any

from twistlm.compute import remembered
from twistlm.compute.choices import Choice
from twistlm.compute.threads import cores
from twistlm.corpus import manifest
from twistlm.errors import TwistError
from twistlm.evaluate.suites.catalogue import BUNDLED, open_suite
from twistlm.files import artifacts, named, sources
from twistlm.files.jsonl import read_json
from twistlm.lm import folders as models
from twistlm.units import catalogue as tokenizers
from twistlm.vocoder import catalogue as vocoders
from twistlm.vocoder.voices import read_voices

Facts = dict[str, Any]
_PACKAGES = (
    "twistlm",
    "torch",
    "transformers",
    "numpy",
    "soundfile",
    "soxr",
    "pyarrow",
    "scikit-learn",
    "faster-whisper",
    "gguf",
)
_NEEDED_GB = 6.0  # of memory by the quickstart at most
_NVIDIA, _AMD = Path("/proc/driver/nvidia/version"), Path("/sys/class/kfd/kfd/topology/nodes")


def diagnose() -> Facts:
    """Return the state of machine and installation.

    `problems` lists what is amiss, `slow` what is slower here than it could be or than one would think, each with its
    reason; both are empty when all is well. `bundled` has a line for every encoder, tokenizer, vocoder, suite and the
    speech.
    """
    import torch

    from twistlm.compute.precision import SMOLLM2_135M, choose_precision

    problems: list[str] = []
    packages: Facts = {}
    for name in _PACKAGES:
        try:
            packages[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            packages[name] = "missing"
            problems.append(f"the package {name} is missing: pip install {name}")
    things, missing = bundled()
    cache = artifacts.cache_folder()
    nearest = next(p for p in (cache, *cache.absolute().parents) if p.exists())
    if not os.access(nearest, os.W_OK):
        problems.append(f"the cache {cache} cannot be written: set TWISTLM_CACHE to a folder of yours")
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    if memory < _NEEDED_GB:
        problems.append(f"{memory:.1f} GB of memory; the quickstart may need {_NEEDED_GB:g} GB")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    precision, choice = choose_precision("auto", device, SMOLLM2_135M, rows=512)
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cores": cores(),
        "memory_gb": memory,
        "device": torch.cuda.get_device_name() if device.type == "cuda" else "cpu",
        "precision": f"{precision} ({choice.in_words()})",
        "choices": f"{len(remembered.recalled())} timed on this machine, kept in {remembered.file()}",
        "cache": str(cache),
        "cache_free_gb": shutil.disk_usage(nearest).free / 1e9,
        "fetched": fetched(),
        "bundled": things,
        "packages": packages,
        "pip": importlib.util.find_spec("pip") is not None,
        "slow": slow(choice),
        "problems": problems + missing,
    }


def fetched() -> Facts:
    """Return, for each named artifact that has to be fetched, its licence and whether the cache holds a copy."""
    found: Facts = {}
    for name, artifact in named.ARTIFACTS.items():
        if not isinstance(artifact.sources[0], sources.Bundled):
            there = any((artifacts.cache_folder() / name).glob("*/.complete.json"))
            found[name] = f"{artifact.kind}, {artifact.licence}, {'in the cache' if there else 'not fetched yet'}"
    return found


def bundled() -> tuple[Facts, list[str]]:
    """Return what ships, by kind and name, with what each is; and what of it is missing or broken."""
    things: Facts = {kind: {} for kind in ("encoder", "tokenizer", "vocoder", "lm", "suite", "speech", "listening")}
    problems: list[str] = []

    def tell(kind: str, name: str, about: Callable[[str], str]) -> None:
        try:
            things[kind][name] = about(name)
        except (TwistError, OSError) as error:
            things[kind][name] = "missing or broken"
            problems.append(f"the bundled {kind} {name}: {error}")

    for name in _names("encoder", expected=["mini-25hz"]):
        tell("encoder", name, _encoder)
    shipped = [artifact for artifact in named.ARTIFACTS.values() if isinstance(artifact.sources[0], sources.Bundled)]
    for kind, about in (("tokenizer", _tokenizer), ("vocoder", _vocoder)):
        ours = [Path(str(a.sources[0].folder)).name for a in shipped if a.kind == kind]  # type: ignore[union-attr]
        for name in _names(kind, expected=ours):
            tell(kind, name, about)
    for name in _names("lm", expected=models.BUNDLED):
        tell("lm", name, _model)
    for name in BUNDLED:
        tell("suite", name, lambda suite: f"{len(open_suite(suite).pairs)} pairs")
    tell("speech", "speech", _speech)
    for name in _names("listening", expected=["en"]):
        tell("listening", name, _voice)
    return things, problems


def slow(precision: Choice) -> list[str]:
    """Return what is slower here than it could be, and why.

    Args:
        precision: how `"auto"` chose the number format of training.
    """
    import torch

    at = torch.get_num_threads()
    reasons = [_idle_gpu()]
    if at < cores():
        because = "OMP_NUM_THREADS says so" if "OMP_NUM_THREADS" in os.environ else "its default here"
        reasons.append(f"torch computes on {at} of {cores()} cores: {because}")
    if torch.cuda.is_available():
        from twistlm.train.compile import c_compiler

        if not c_compiler():
            reasons.append("no C compiler, which Triton needs: training with compile = true will not run (install gcc)")
    else:
        capability = torch.backends.cpu.get_cpu_capability()
        if capability in ("DEFAULT", "NO AVX"):
            reasons.append("the CPU has no AVX2 that torch could use: everything is several times slower")
        times = precision.seconds
        if {"float32", "bf16"} <= times.keys() and precision.took == "float32":
            reasons.append(
                "the CPU has bf16 instructions, but its products in bf16 take "
                f"{times['bf16'] / times['float32']:.1f} times as long as in float32: precision auto takes float32"
            )
    return [reason for reason in reasons if reason]


def _idle_gpu() -> str:
    """Say why a GPU that the system has is not used by torch; "" where none is idle."""
    import torch

    if torch.cuda.is_available():
        return ""
    if _NVIDIA.exists():
        if torch.version.cuda is None:
            return "an NVIDIA GPU is idle: this torch is a build for CPUs. Install one for CUDA (pytorch.org says how)"
        return (
            f"an NVIDIA GPU is idle: torch is built for CUDA {torch.version.cuda} and finds none. Is its driver too "
            "old, or CUDA_VISIBLE_DEVICES empty?"
        )
    if torch.version.hip is None and _AMD.is_dir() and any(_has_cores(node) for node in _AMD.iterdir()):
        return "an AMD GPU is idle: this torch is no ROCm build. Install one (pytorch.org says how)"
    return ""


def _has_cores(node: Path) -> bool:
    try:
        lines = (node / "properties").read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        return False
    return any(line.startswith("simd_count ") and line != "simd_count 0" for line in lines)  # CPUs are nodes with 0


def _names(kind: str, *, expected: Iterable[str]) -> list[str]:
    """Return the names of what lies in `assets/KIND`, and of what should."""
    try:
        there = {path.name for path in artifacts.bundled(kind).iterdir() if path.is_dir()}
    except TwistError:
        there = set()
    return sorted(there | set(expected))


def _encoder(name: str) -> str:
    return f"{(artifacts.bundled(f'encoder/{name}') / 'encoder.safetensors').stat().st_size / 1e6:.0f} MB"


def _tokenizer(name: str) -> str:
    spec = tokenizers.read_spec(name)
    voice = vocoders.vocoder_of(spec)
    return (
        f"{spec.n_units} units at {float(spec.frame_rate):g} Hz, {spec.fingerprint}, "
        f"{'no vocoder' if voice is None else f'vocoder {voice}'}"
    )


def _vocoder(name: str) -> str:
    spec = vocoders.read_spec(name)
    of = tokenizers.tokenizer_of(spec, fetch=False)
    voices, _ = read_voices(vocoders.vocoder_folder(name))
    who = f", speakers {', '.join(sorted(voices.speakers))}" if voices.speakers else ""
    units = f"{spec.n_units} units at {float(spec.frame_rate):g} Hz, {spec.fingerprint}"
    return f"{units}, tokenizer {of or 'none here'}{who}"


def _model(name: str) -> str:
    spec = models.model_spec(name)
    of = tokenizers.tokenizer_of(spec, fetch=False)
    told = read_json(models.lm_folder(name) / "lowrank.json", "what a low-rank model is", shape={"text_lm": str})
    return f"{told['text_lm']} and a difference, of units {spec.fingerprint}, tokenizer {of or 'none here'}"


def _voice(name: str) -> str:
    return f"{len(list(artifacts.bundled(f'listening/{name}').glob('*.ogg')))} sounds of checks"


def _speech(name: str) -> str:
    entries = manifest.build(artifacts.bundled(name))
    return f"{len(entries)} clips, {len({entry.speaker for entry in entries})} voices"
