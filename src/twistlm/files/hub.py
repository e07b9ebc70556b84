"""Files of the Hugging Face hub, by its own client in a process of its own, which can be ended."""

from __future__ import annotations

import fnmatch
import glob
import json
import os
import shutil
import socket
import sys
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any

from twistlm.errors import ArtifactError
from twistlm.files.atomic import is_disk_full
from twistlm.files.downloads import require_space, run_watched
from twistlm.files.sources import Hub

_SLACK = 32 << 20  # bytes of the client's own bookkeeping
_ANSWER = 30.0  # seconds that a question to the hub may take
_CLIENT = """
import json, sys, huggingface_hub
repo, revision, folder, *names = sys.argv[1:]
try:
    huggingface_hub.snapshot_download(repo, revision=revision, local_dir=folder, allow_patterns=names)
except Exception as error:
    print(json.dumps([type(error).__name__, getattr(error, "errno", None), str(error)]))
    sys.exit(1)
"""


def fetch_hub(source: Hub, folder: Path, most: int) -> dict[str, Any]:
    """Put the files of a repository into an empty folder; return its commit, as `{"commit": …}`.

    Args:
        source: the repository and which of its files.
        folder: where they go.
        most: bytes, where the hub does not say how many there are.

    Raises:
        ArtifactError: no hub, no such repository or revision, none of the files, not enough space, too much or too
            slowly sent, or it asks for a login.
        OSError: the disk is full.
    """
    _require_answer()
    import huggingface_hub
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, RepositoryNotFoundError, RevisionNotFoundError

    try:
        about = huggingface_hub.HfApi().model_info(
            source.repo, revision=source.revision, files_metadata=True, timeout=_ANSWER
        )
    except (GatedRepoError, RevisionNotFoundError, RepositoryNotFoundError) as error:
        raise _refusal(source, type(error).__name__, str(error)) from error
    except (OSError, ValueError, HfHubHTTPError) as error:
        raise ArtifactError(f"the download failed ({error})") from error
    sizes = {file.rfilename: file.size for file in about.siblings or []}
    wanted = [name for name in sizes if any(fnmatch.fnmatchcase(name, form) for form in source.patterns)]
    if any(name.endswith(".safetensors") for name in wanted):
        wanted = [name for name in wanted if not name.startswith("pytorch_model")]
    if not wanted:
        raise ArtifactError(f"the repository {source.repo} has none of {', '.join(source.patterns)}")
    told = [sizes[name] or 0 for name in wanted]
    require_space(folder, sum(told), variable="TWISTLM_CACHE")
    total = sum(told) if all(sizes[name] is not None for name in wanted) else most
    command = [sys.executable, "-c", _CLIENT, source.repo, str(about.sha), str(folder), *map(glob.escape, wanted)]
    code, said = run_watched(command, folder, most=total + _SLACK, environment=dict(os.environ), show=True)
    if code:
        _raise(source, said, code)
    if missing := [name for name in wanted if not (folder / name).is_file()]:
        raise ArtifactError(f"the download failed: {missing[0]} did not come")
    shutil.rmtree(folder / ".cache", ignore_errors=True)  # download bookkeeping of huggingface_hub
    return {"commit": about.sha}


def _require_answer() -> None:
    if os.environ.get("HF_HUB_OFFLINE", "0").lower() not in ("", "0", "false", "no"):
        raise ArtifactError("HF_HUB_OFFLINE is set")
    address = urllib.parse.urlparse(os.environ.get("HF_ENDPOINT") or "https://huggingface.co")
    if urllib.request.getproxies().get(address.scheme):  # behind a proxy a direct connection proves nothing
        return
    try:
        port = address.port or (80 if address.scheme == "http" else 443)
        socket.create_connection((address.hostname, port), 3).close()
    except OSError as error:
        raise ArtifactError(f"{address.hostname} does not answer within 3 s ({error})") from error


def _raise(source: Hub, said: str, code: int) -> None:
    """Raise what the client's process said in its last line."""
    try:
        kind, number, text = json.loads(said.strip().splitlines()[-1])
    except (ValueError, IndexError):
        raise ArtifactError(f"the download failed (exit code {code}) {said.strip()[-300:]}") from None
    error = OSError(number, text) if isinstance(number, int) else OSError(text)
    if is_disk_full(error):
        raise error
    raise _refusal(source, str(kind), str(text)) from error


def _refusal(source: Hub, kind: str, text: str) -> ArtifactError:
    if kind == "GatedRepoError":
        return ArtifactError(f"{source.repo} is gated: accept its terms on the hub, and give your token in HF_TOKEN")
    if kind == "RevisionNotFoundError":
        return ArtifactError(f"the hub's {source.repo} has no revision {source.revision!r}")
    if kind == "RepositoryNotFoundError":
        return ArtifactError(f"the hub has no model {source.repo}, or it is private: then give your token in HF_TOKEN")
    return ArtifactError(f"the download failed ({kind}: {text})")
