"""A vocoder's `config.json`: which generator it has, and of what shape."""

from __future__ import annotations

import dataclasses
from typing import Any

from twistlm.errors import BadInput
from twistlm.files.configs import check_sizes
from twistlm.files.jsonl import check_shape, parse_json
from twistlm.vocoder.durations import DurationConfig
from twistlm.vocoder.generator import InputShape
from twistlm.vocoder.hifigan import HiFiGANConfig
from twistlm.vocoder.istft import ISTFTConfig

GENERATORS: dict[str, tuple[type[InputShape], dict[str, Any]]] = {
    HiFiGANConfig.kind: (HiFiGANConfig, HiFiGANConfig.JSON),
    ISTFTConfig.kind: (ISTFTConfig, ISTFTConfig.JSON),
}  # by `generator` in config.json: the config, and the JSON types of what it adds
_DURATION = {"encoder_embed_dim": int, "var_pred_hidden_dim": int, "var_pred_kernel_size": int}
_INPUTS = {
    "num_embeddings": int, "embedding_dim": int, "model_in_dim": int, "sampling_rate": int,
    "dur_predictor_params?": ({**_DURATION, "var_pred_dropout": float}, None),
    **{f"num_{kind}s?": int for kind in ("language", "speaker", "style")},
    **{f"{kind}_dim?": int for kind in ("language", "speaker", "style")},
}  # fmt: skip
_OTHER = {  # of the published family, what stands beside the units and is not spoken here
    "f0": "vocoders that need a pitch curve beside the units",
    "num_f0_tokens": "vocoders that need pitch units beside the units",
    "num_style_tokens": "vocoders that need style units beside the units",
    "embedder_params": "vocoders that need a speaker's vector instead of a name",
}


def read_shape(text: str) -> InputShape:
    """Read a config: ours, or a published one. Keys that only matter for training are ignored, as they are many there.

    Raises:
        BadInput: a key is missing, the generator is unknown, or it is of a kind that is not supported.
    """
    fields: dict[str, Any] = parse_json(text, where="vocoder config", kind="the shape of a vocoder")
    check_sizes(fields, where="vocoder config")
    kind = fields.get("generator", HiFiGANConfig.kind)
    if kind not in GENERATORS:
        raise BadInput(f"vocoder config: the generator {kind!r} is unknown; known are {', '.join(GENERATORS)}.")
    for key, what in _OTHER.items():
        if fields.get(key):
            raise BadInput(f"vocoder config: {key} is {fields[key]!r}, and {what} are not supported.")
    if str(fields.get("resblock", "1")) != "1":
        raise BadInput(f'vocoder config: resblock is {fields["resblock"]!r}; only "1" is supported.')
    fields = {**fields, **_rows_published(fields)}
    config, json_types = GENERATORS[kind]
    known = {f.name: f for f in dataclasses.fields(config)}
    missing = [name for name, f in known.items() if name not in fields and f.default is dataclasses.MISSING]
    if missing:
        raise BadInput(f"vocoder config: keys missing: {', '.join(missing)}. Is it the config of a unit vocoder?")
    check_shape(fields, {**_INPUTS, **json_types}, where="vocoder config", kind="the shape of a vocoder")
    kept = {name: _tuples(value) for name, value in fields.items() if name in known}
    if params := kept.get("dur_predictor_params"):
        named = {f.name: params[f.name] for f in dataclasses.fields(DurationConfig)}
        kept["dur_predictor_params"] = DurationConfig(**named)
    return config(**kept)


def _rows_published(fields: dict[str, Any]) -> dict[str, Any]:
    """Rows of the tables of speakers and styles: a published config says that they are there, and not always how many.

    Its defaults are those of the published code.
    """
    return {
        key: fields.get(key, default) if fields.get(switch) else 0
        for switch, key, default in (("multispkr", "num_speakers", 200), ("multistyle", "num_styles", 100))
    }


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, list) else value
