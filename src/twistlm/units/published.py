"""Published tokenizers and codebooks of the textless line, by the names under which they were published.

Each is fetched once, checked by sha256, and made into a tokenizer folder like any other: the encoder cut at its layer
and the centroids, both as safetensors. The pickle the centroids come in is never run (`units.kmeans_pickle`).
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

from twistlm.errors import BadInput
from twistlm.files import artifacts, sources
from twistlm.files.configs import read_unit_spec
from twistlm.files.regular import file_sha256
from twistlm.files.sealed import is_sealed, seal
from twistlm.units.kmeans import Codebook
from twistlm.units.kmeans_files import read_kmeans

_log = logging.getLogger(__name__)
_FILES = "https://dl.fbaipublicfiles.com"
_FOLDER_VERSION = 1  # raise when the folders made here change, so that older ones in a cache are left alone


@dataclass(frozen=True, kw_only=True)
class Published:
    """A published k-means, and the encoder whose features it was fitted on.

    Attributes:
        path: below the publisher's address.
        sha256: of the file.
        n_units: K.
        layer: the tap; None where it is not known to count transformer blocks.
        encoder: hub id of the encoder; None where only a checkpoint of another toolkit is published, whose address is
            then in `checkpoint`.
        checkpoint_sha256: of that file, where it can be read: a HuBERT of fairseq.
        padding: zero samples on both sides of each clip; see `UnitSpec`.
        known_as: what the spec calls the encoder; "" for the entry's own name.
    """

    path: str
    sha256: str
    n_units: int
    layer: int | None
    encoder: str | None = None
    checkpoint: str = ""
    checkpoint_sha256: str = ""
    padding: int = 0
    known_as: str = ""


_HUBERT, _MHUBERT_25HZ = "facebook/hubert-base-ls960", "slprl/mhubert-base-25hz"
_VP = "hubert/mhubert_base_vp_en_es_fr_it3.pt"
_VP_SHA256 = "23527cd6311a6617bfa199f574e2eed478cd6a58a634f4007165c10ec0019832"
_8LANG = "hubert/mhubert_base_vp_mls_cv_8lang_it3.pt"
_8LANG_SHA256 = "fa82eaccb557465f4732662e3a744c30c953059147ac6a4c92f1f3e0daeda61e"
_CPC = "textless_nlp/gslm/cpc/cpc_big_ll6kh_top_ctc.pt"
_EXPRESSO = "textless_nlp/expresso/checkpoints"

PUBLISHED = {
    "hubert-base-ls960-kmeans-50": Published(
        path="textless_nlp/gslm/hubert/km50/km.bin", n_units=50, layer=6, encoder=_HUBERT,
        sha256="d01a7d5bc2c54b7b5f25f321ba525b4d230b06e3927f90bad0394198bc89f494",
    ),
    "hubert-base-ls960-kmeans-100": Published(
        path="textless_nlp/gslm/hubert/km100/km.bin", n_units=100, layer=6, encoder=_HUBERT,
        sha256="f14a3104615485381fc489701d6761c9abbdbb0d43607cf55518a1e2891023fe",
    ),
    "hubert-base-ls960-kmeans-200": Published(
        path="textless_nlp/gslm/hubert/km200/km.bin", n_units=200, layer=6, encoder=_HUBERT,
        sha256="b3c46c9cdd1707ad852dd53c359aa73942e79d53c432a9a8a419ed046408024b",
    ),
    "hubert-base-ls960-kmeans-500": Published(
        path="textless_nlp/gslm/hubert/km500/km.bin", n_units=500, layer=6, encoder=_HUBERT,
        sha256="411c8668e1314751404f58636f935fc73540a6793890435da4a8ffadf157398e",
    ),
    "hubert-base-ls960-layer-9-kmeans-500": Published(
        path="hubert/hubert_base_ls960_L9_km500.bin", n_units=500, layer=9, encoder=_HUBERT,
        sha256="4450dcbc90aa7d0553306a4b0fafef35c9b3c840468f02969273dfbb9db89a23",
    ),
    "hubert-base-ls960-layer-9-kmeans-expresso-2000": Published(
        path=f"{_EXPRESSO}/hubert_base_ls960_L9_km2000_expresso.bin", n_units=2000, layer=9, encoder=_HUBERT,
        sha256="ae73e3cc7ea0426faf43c8bb67fc3846a0f8708232526d045a101836e8c7929f",
    ),
    "mhubert-base-25hz-kmeans-500": Published(
        path="textless_nlp/twist/speech_tokenizer/mhubert_base_25hz_cp_mls_cv_sp_fisher_L11_km500.bin", n_units=500,
        layer=11, encoder=_MHUBERT_25HZ, sha256="03cc04a9c24fec4285e73e709c485756d8f116aa8e724eac555de6a7cf8d28ad",
    ),
    # The same encoder and codebook as SlamKit uses them, with 40 samples on both sides of each clip: other units.
    "slamkit-mhubert-base-25hz-kmeans-500": Published(
        path="textless_nlp/twist/speech_tokenizer/mhubert_base_25hz_cp_mls_cv_sp_fisher_L11_km500.bin", n_units=500,
        layer=11, encoder=_MHUBERT_25HZ, sha256="03cc04a9c24fec4285e73e709c485756d8f116aa8e724eac555de6a7cf8d28ad",
        padding=40, known_as="mhubert-base-25hz-kmeans-500",
    ),
    "mhubert-base-vp_en_es_fr-layer-11-kmeans-1000": Published(
        path="hubert/mhubert_base_vp_en_es_fr_it3_L11_km1000.bin", n_units=1000, layer=11, checkpoint=_VP,
        checkpoint_sha256=_VP_SHA256,
        sha256="c70f5416c38044d0c20e33fdeedf4533974a8ac4029985cdef3b755038381a0b",
    ),
    "mhubert-base-vp_mls_cv_8lang-kmeans-2000": Published(
        path="hubert/mhubert_base_vp_mls_cv_8lang_it3_L12_km2000.bin", n_units=2000, layer=12, checkpoint=_8LANG,
        checkpoint_sha256=_8LANG_SHA256,
        sha256="05de230870427dcdce334d29922ccce354c7e7d0574edc645f5daed47b1ccc18",
    ),
    "mhubert-base-vp_mls_cv_8lang-kmeans-expresso-2000": Published(
        path=f"{_EXPRESSO}/mhubert_base_vp_mls_cv_8lang_it3_L12_km2000_expresso.bin", n_units=2000, layer=12,
        checkpoint=_8LANG, checkpoint_sha256=_8LANG_SHA256,
        sha256="bda2dbf5fe42bf59359799b281498a9d7fd0a9ec703d6dc54a4a4a0ff70a4e22",
    ),
    # Not a transformer: contrastive predictive coding, whose features come from an LSTM.
    "cpc-big-ll6k-kmeans-50": Published(
        path="textless_nlp/gslm/cpc/km50/km.bin", n_units=50, layer=None, checkpoint=_CPC,
        sha256="c48be5717aebc08169aa5165d58267449b8c8568624a346bb9f4b26eac3b0240",
    ),
    "cpc-big-ll6k-kmeans-100": Published(
        path="textless_nlp/gslm/cpc/km100/km.bin", n_units=100, layer=None, checkpoint=_CPC,
        sha256="077b96e010b1e87be627ef2bef0f5e5cdaa1c01722aa363b2dc0bb6a638e8b26",
    ),
    "cpc-big-ll6k-kmeans-200": Published(
        path="textless_nlp/gslm/cpc/km200/km.bin", n_units=200, layer=None, checkpoint=_CPC,
        sha256="2d863d1c6f251d19e667998248c87642ecb5e3ffaa410e9ebfa64341db4f6de2",
    ),
    "cpc-big-ll6k-kmeans-500": Published(
        path="textless_nlp/gslm/cpc/km500/km.bin", n_units=500, layer=None, checkpoint=_CPC,
        sha256="35398f665dff06801a7bf1e595bc176711ed751d554e64d999dc42f1dd106561",
    ),
}  # fmt: skip


def published_codebook(name: str) -> Codebook:
    """Fetch a codebook of PUBLISHED (once: the cache keeps it) and read its centroids.

    Raises:
        BadInput: no such name; the file is not the k-means it should be.
        ArtifactError: it could not be fetched, or its sha256 is another.
    """
    entry = _entry(name)
    source = sources.Url(url=f"{_FILES}/{entry.path}", sha256=entry.sha256)
    named = sources.Artifact(
        name=name, kind="codebook", sources=(source,), licence="not stated beside the file", note="k-means pickle",
    )  # fmt: skip
    book = read_kmeans(artifacts.resolve(named) / Path(entry.path).name)
    if book.n_units != entry.n_units:
        raise BadInput(f"{source.url} holds {book.n_units} centroids, its name says {entry.n_units}.")
    return book


def published_folder(name: str) -> Path:
    """Return the tokenizer folder of a published tokenizer, in the cache; made when it is not there.

    Raises:
        BadInput: no such name, or its encoder is not published in a form that can be read here.
        ArtifactError: something could not be fetched.
    """
    entry = _entry(name)
    if entry.layer is None or not (entry.encoder or entry.checkpoint_sha256):
        raise BadInput(
            f"the codebook {name} can be read (published_codebook), but its encoder is published only as a checkpoint "
            f"of another toolkit ({_FILES}/{entry.checkpoint}), which twistlm does not read: it is not a HuBERT."
        )
    folder = artifacts.cache_folder() / "tokenizers" / f"{name}-{_FOLDER_VERSION}"
    if not _is_whole(folder):
        from twistlm.units.importing import import_tokenizer  # torch: only here, not where a name is looked up

        import_tokenizer(
            folder, name=entry.known_as or name, encoder=published_encoder(name),
            codebook=published_codebook(name), layer=entry.layer,
            # The trainings of HuBERT base and of mHuBERT read raw samples (fairseq's recipe: `normalize: false`).
            normalize_input=False, padding=entry.padding,
        )  # fmt: skip
        seal(folder / "spec.json")
    return folder


def _is_whole(folder: Path) -> bool:
    """Whether a tokenizer folder of the cache holds what was written: its spec is sealed and has the other hashes."""
    if not is_sealed(folder / "spec.json"):
        return False
    spec = read_unit_spec(folder / "spec.json", "what the units of a tokenizer are")
    told = {"encoder.safetensors": spec.encoder_sha256, "codebook.safetensors": spec.centroids_sha256}
    wrong = [name for name, sha in told.items() if not (folder / name).is_file() or file_sha256(folder / name) != sha]
    if wrong:
        _log.warning("%s: %s is not what was written; the tokenizer is made again", folder, wrong[0])
    return not wrong


def published_encoder(name: str) -> str | Path:
    """What `pretrained` takes for the encoder of a published codebook: a hub id, or a checkpoint fetched to the cache.

    Raises:
        BadInput: no such name, or its encoder cannot be read here.
        ArtifactError: it could not be fetched.
    """
    entry = _entry(name)
    if entry.encoder:
        return entry.encoder
    if not entry.checkpoint_sha256:
        raise BadInput(
            f"the encoder of {name} is published only as {_FILES}/{entry.checkpoint}, which is not read here."
        )
    file = Path(entry.checkpoint).name
    source = sources.Url(url=f"{_FILES}/{entry.checkpoint}", sha256=entry.checkpoint_sha256)
    named = sources.Artifact(
        name=Path(file).stem, kind="encoder", sources=(source,), licence="not stated beside the file",
        note="fairseq checkpoint",
    )  # fmt: skip
    return artifacts.resolve(named) / file


def _entry(name: str) -> Published:
    if name not in PUBLISHED:
        raise BadInput(f"{name!r} is not a published codebook. Known: {', '.join(PUBLISHED)}.")
    return PUBLISHED[name]
