"""Copies of the shards behind a URL, in this machine's cache: only what is new or changed there is fetched."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from pathlib import Path

from filelock import FileLock

from twistlm.errors import BadInput
from twistlm.files.artifacts import cache_to_write
from twistlm.files.atomic import atomic_write
from twistlm.files.jsonl import read_json
from twistlm.files.sealed import is_sealed, remove, seal
from twistlm.files.urls import UrlPath


def mirror(folder: UrlPath, *, names: re.Pattern[str]) -> Path:
    """Return a folder of the cache with the files that are in `folder` now and whose names match `names` fully.

    Raises:
        UrlError: the folder could not be listed, or a file not be fetched.
    """
    here = cache_to_write("units") / hashlib.sha256(str(folder / "").encode()).hexdigest()[:16]
    here.mkdir(parents=True, exist_ok=True)
    index = here / "versions.json"
    with FileLock(here / ".lock"):
        held = _held(index)
        there = {path.name: path for path in folder.iterdir() if names.fullmatch(path.name)}
        for name in held.keys() - there.keys():
            if names.fullmatch(name):  # an index that was tampered with removes nothing else
                remove(here / name)
        versions = {name: version for name, version in held.items() if not names.fullmatch(name)}
        for name, path in there.items():
            versions[name] = path.version()  # before it is fetched: what changes meanwhile is fetched again
            if versions[name] != held.get(name) or not is_sealed(here / name):
                with atomic_write(here / name) as temporary, path.open() as file, temporary.open("wb") as copy:
                    shutil.copyfileobj(file, copy)
                seal(here / name)
        if versions != held:
            with atomic_write(index) as temporary:
                temporary.write_text(json.dumps(versions))
    return here


def _held(index: Path) -> dict[str, str]:
    """The version of each file that the cache holds; nothing, so that all are fetched again, where it does not say."""
    try:
        held: dict[str, str] = read_json(index, "the versions of cached shards", shape={str: str})
    except BadInput:
        return {}
    return held
