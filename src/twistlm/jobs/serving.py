"""A model one can talk to: found with its parts, and served until it is stopped."""

from __future__ import annotations

import contextlib
import itertools
import re
import secrets
import ssl
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from twistlm.corpus import manifest
from twistlm.errors import ArtifactError, BadInput
from twistlm.evaluate.asr import Whisper
from twistlm.files.artifacts import bundled, is_cached
from twistlm.files.named import ARTIFACTS
from twistlm.jobs.parts import parts_of_model, vocoder_for
from twistlm.jobs.ports import bound, reachable
from twistlm.lm.folders import BUNDLED, lm_folder, load_model

if TYPE_CHECKING:
    import torch

    from twistlm.serve.engine import Room
    from twistlm.serve.limits import Limits
    from twistlm.serve.models import Example, Served
    from twistlm.vocoder.vocoder import Vocoder

RUNS = Path("runs")
_TOKEN = re.compile(r"[A-Za-z0-9!#$%&'*+.^_|~-]+")  # RFC 7230: a WebSocket's subprotocol has no other
EXAMPLES = ("heldout_voice-rms-0000", "heldout_text-slt-0000", "heldout_text-awb-0001", "librivox-0930")


@dataclass(frozen=True, kw_only=True)
class Address:
    """Where a server listens.

    Attributes:
        host, port: as given; port 0 is any that is free.
        certificate, key: PEM files, for https; None for http.
        token: what callers must know; None asks for none, and is only allowed on loopback.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    certificate: Path | None = None
    key: Path | None = None
    token: str | None = None

    def check(self) -> None:
        """Raise `BadInput` where it cannot be listened at: half of a certificate, a token that browsers cannot send."""
        if (self.certificate is None) != (self.key is None):
            raise BadInput("https needs both a certificate and its key.")
        if self.certificate is not None and self.key is not None:
            for file in (self.certificate, self.key):
                if not file.is_file():
                    raise BadInput(f"there is no file {file}: --certificate and --key are PEM files.")
            try:
                # A password is given, so that nobody is asked for one, now and twice later; it is none's.
                ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(self.certificate, self.key, password="")
            except OSError as error:  # as ssl's own errors are
                raise BadInput(
                    f"{self.certificate} and {self.key} are no certificate and its key, both PEM files without a "
                    f"password: {error}."
                ) from error
        if self.token is not None and not _TOKEN.fullmatch(self.token):
            raise BadInput(
                f"a token is letters, digits and any of !#$%&'*+.^_|~- , one at least (browsers send nothing else); "
                f"{'it is empty' if not self.token else 'this one has others'}. Leave --token out and one is made."
            )

    @property
    def local(self) -> bool:
        """Whether only this machine can reach it."""
        return self.host in ("localhost", "::1") or self.host.startswith("127.")


def newest_quickstart(runs: Path = RUNS) -> Path | None:
    """Return the folder of the finished quickstart below `runs` that was written last; None where there is none."""
    finished = [found for found in runs.glob("*/results.json") if (found.parent / "warm" / "lm").is_dir()]
    return max(finished, key=lambda found: found.stat().st_mtime).parent if finished else None


def models_of(given: Sequence[str | Path]) -> dict[str, Path]:
    """Return the folders to be served by name: a whole quickstart is both of its models; nothing given is the default.

    Raises:
        BadInput: nothing was given and nothing is here; or two have one name.
    """
    if not given:
        return models_of([_default()])
    found: dict[str, Path] = {}
    for one in map(Path, given):
        sides = [one / side for side in ("warm", "cold") if (one / side / "lm").is_dir()]
        for folder in sides if sides and not (one / "lm").is_dir() else [one]:
            home = folder.absolute()
            name = home.name if home.name not in found else f"{home.parent.name}-{home.name}"
            if name in found:
                raise BadInput(f"two models are called {name}: serve them from folders of other names.")
            found[name] = folder
    return found


def _default() -> Path:
    if (run := newest_quickstart()) is not None:
        return run
    for name in BUNDLED:
        with contextlib.suppress(ArtifactError):  # this copy of twistlm does not hold it
            if lm_folder(name).is_dir():
                return Path(name)
    raise BadInput(
        f"no model was named, and no finished quickstart is below {RUNS}/: run twist quickstart, or name a model."
    )


def load_served(
    models: Mapping[str, Path],
    *,
    tokenizer: str | Path | None = None,
    vocoders: Sequence[str | Path] = (),
    search: Sequence[str | Path] = (),
    exact: bool = False,
    transcripts: bool = True,
    device: str | None = None,
) -> Served:
    """Load models with what they hear and speak with.

    Args:
        models: folders by name, of the same units.
        tokenizer, vocoders, search: as of `parts_of_model`; the first of several vocoders is the default.
        exact: wait for all that could change a sound, so that it is what `twist generate` would write.
        transcripts: whether to write down what was said, where the recogniser is in the cache.
        device: where models and voices compute; None: a GPU where there is one.

    Raises:
        BadInput: a part that is not there. UnitSpecMismatch: they are not of the same units.
    """
    from twistlm.compute.threads import apart

    return apart(
        lambda: _load(models, tokenizer, vocoders, search, exact=exact, transcripts=transcripts, device=device)
    )


def _load(
    models: Mapping[str, Path],
    tokenizer: str | Path | None,
    vocoders: Sequence[str | Path],
    search: Sequence[str | Path],
    *,
    exact: bool,
    transcripts: bool,
    device: str | None,
) -> Served:
    from twistlm.compute import devices
    from twistlm.serve.models import Served
    from twistlm.units.tokenizer import SpeechTokenizer
    from twistlm.vocoder.vocoder import Vocoder

    first, *_ = models.values()
    parts = parts_of_model(first, tokenizer=tokenizer, vocoder=next(iter(vocoders), None), speaks=True, search=search)
    assert parts.tokenizer is not None and parts.vocoder is not None
    voices = {str(parts.vocoder.name): parts.vocoder}
    for more in vocoders[1:]:
        found = vocoder_for(parts.spec, whose=f"the model {first}", source=f"--units-of {first}", given=more)
        voices[found.name] = found
    where = devices.device() if device is None else _device(device)
    loaded = {name: load_model(folder) for name, folder in models.items()}
    for lm in loaded.values():
        module: Any = lm.model
        module.to(where)
    return Served(
        models=loaded,
        tokenizer=SpeechTokenizer.load(parts.tokenizer.folder).on(where),
        voices=_by_voice({name: Vocoder.load(one.folder).on(where) for name, one in voices.items()}),
        examples=tuple(_examples()),
        asr=Whisper.load() if transcripts and is_cached(ARTIFACTS["whisper-tiny.en"]) else None,
        exact=exact,
        origin={name: str(folder) for name, folder in models.items()},
    )


def _device(name: str) -> torch.device:
    import torch

    try:
        where = torch.device(name)
        torch.empty(1, device=where).cpu()
    except (RuntimeError, AssertionError, NotImplementedError) as error:  # unknown; not here; without data ("meta")
        raise BadInput(
            f"nothing computes on {name!r} here ({str(error).splitlines()[0]}): use cpu, or cuda."
        ) from error
    return where


def _by_voice(vocoders: Mapping[str, Vocoder]) -> dict[str, Vocoder]:
    """Return each vocoder as often as it has voices: NAME/SPEAKER of one with several speakers, and so on.

    The voice that goes without saying is its vocoder's first. Where languages have their usual speakers, those speak.
    """
    found: dict[str, Vocoder] = {}
    for name, vocoder in vocoders.items():
        there = vocoder.voices
        tables = {"language": there.languages, "speaker": there.speakers, "style": there.styles}
        if there.of_language:
            del tables["speaker"]
        several = {
            kind: _first(getattr(vocoder.voice, kind), names) for kind, names in tables.items() if len(names) > 1
        }
        for chosen in itertools.product(*several.values()):
            found["/".join((name, *chosen))] = vocoder.speaking_as(**dict(zip(several, chosen, strict=True)))
    return found


def _first(one: str | None, names: Iterable[str]) -> list[str]:
    return sorted(names, key=lambda name: name != one)


def serve(
    served: Served,
    address: Address,
    *,
    limits: Limits,
    room: Room,
    kept: Path | None,
    ready: Callable[[str], None],
) -> None:
    """Serve until a signal comes.

    Args:
        served: from `load_served`.
        address: where; an address that others reach gets a token if it has none.
        limits, room: what callers may ask, and how many.
        kept: folder in which recordings and continuations are kept; None keeps nothing.
        ready: is told the address of the page when it answers; with the token, where there is one.

    Raises:
        BadInput: the address cannot be had, or one of certificate and key is missing.
        ArtifactError: the packages of the extra `serve` are not installed.
    """
    _require_packages()
    from twistlm.serve.app import LOOPBACK, make_app
    from twistlm.serve.connections import StudioServer, configured, give_up_on_the_deaf
    from twistlm.serve.engine import Engine
    from twistlm.serve.studio import Studio

    address.check()
    if not address.local and address.token is None:
        address = replace(address, token=secrets.token_urlsafe(24))
    if kept is not None:
        kept.mkdir(parents=True, exist_ok=True)
    studio = Studio(served, Engine(served.models, room), limits, kept=kept)
    app = make_app(studio, hosts=LOOPBACK | {address.host} if address.local else None, token=address.token)
    listening = bound(address.host, address.port)
    port = listening.getsockname()[1]
    config = configured(app, limits, ssl_certfile=address.certificate, ssl_keyfile=address.key)
    give_up_on_the_deaf(listening, limits.send_seconds)

    with listening, contextlib.suppress(KeyboardInterrupt):  # a signal is how it ends
        StudioServer(config, studio, ready=lambda: ready(_url(address, port))).run(sockets=[listening])


def _require_packages() -> None:
    try:
        import fastapi  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError as error:
        raise ArtifactError(f"serving needs more packages ({error.name}): pip install 'twistlm[serve]'.") from error


def _url(address: Address, port: int) -> str:
    scheme = "http" if address.certificate is None else "https"
    # Behind "#": browsers send that to nobody, and no log has it.
    token = f"#token={quote(address.token, safe='')}" if address.token else ""
    return f"{scheme}://{reachable(address.host)}:{port}/{token}"


def _examples() -> Iterator[Example]:
    from twistlm.serve.models import Example

    try:
        entries = {entry.id: entry for entry in manifest.read(bundled("speech/manifest.jsonl"))}
    except ArtifactError:
        return
    for name in EXAMPLES:
        if name in entries:
            yield Example(name=name, path=Path(str(entries[name].path)), text=entries[name].text)
