"""HuBERT and wav2vec 2.0 as fairseq saved them: one `.pt` of weights and configuration, read without fairseq.

The weights get the names that transformers has for them; the configuration is taken from what the file says of itself
and from the weights' shapes. Nothing in the file is run (`files.torch_files`).
"""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any

import numpy as np
import torch

from twistlm.errors import ArtifactError, BadInput, offenders
from twistlm.files.pickles import Record
from twistlm.files.torch_files import Tensor, plain, read_torch

FAMILIES = {"hubert": "hubert", "hubert_ctc": "hubert", "wav2vec2": "wav2vec2", "wav2vec_ctc": "wav2vec2"}
_MOST_CONVOLUTIONS = 32

# fairseq's names as patterns, and transformers' for the same tensors. A name of neither table is refused.
_NORM = "(weight|bias)"
_NAMES = [
    (rf"feature_extractor\.conv_layers\.(\d+)\.0\.{_NORM}", r"feature_extractor.conv_layers.\1.conv.\2"),
    # Layer norms stand between two transpositions, the group norm does not.
    (rf"feature_extractor\.conv_layers\.(\d+)\.2(?:\.1)?\.{_NORM}", r"feature_extractor.conv_layers.\1.layer_norm.\2"),
    (rf"layer_norm\.{_NORM}", r"feature_projection.layer_norm.\1"),
    (rf"post_extract_proj\.{_NORM}", r"feature_projection.projection.\1"),
    (r"encoder\.pos_conv\.0\.weight_g", "encoder.pos_conv_embed.conv.parametrizations.weight.original0"),
    (r"encoder\.pos_conv\.0\.weight_v", "encoder.pos_conv_embed.conv.parametrizations.weight.original1"),
    (rf"encoder\.layer_norm\.{_NORM}", r"encoder.layer_norm.\1"),
    (rf"encoder\.layers\.(\d+)\.self_attn\.([kvq]_proj|out_proj)\.{_NORM}", r"encoder.layers.\1.attention.\2.\3"),
    (rf"encoder\.layers\.(\d+)\.self_attn_layer_norm\.{_NORM}", r"encoder.layers.\1.layer_norm.\2"),
    (rf"encoder\.layers\.(\d+)\.fc1\.{_NORM}", r"encoder.layers.\1.feed_forward.intermediate_dense.\2"),
    (rf"encoder\.layers\.(\d+)\.fc2\.{_NORM}", r"encoder.layers.\1.feed_forward.output_dense.\2"),
    (rf"encoder\.layers\.(\d+)\.final_layer_norm\.{_NORM}", r"encoder.layers.\1.final_layer_norm.\2"),
]
_PLAIN_POSITIONS = [(r"encoder\.pos_conv\.0\.bias", "encoder.pos_conv_embed.conv.bias")]
# mHuBERT-25Hz has a batch norm before the positional convolution in place of a weight norm.
_NORMED_POSITIONS = [
    (
        r"encoder\.pos_conv\.0\.(weight|bias|running_mean|running_var|num_batches_tracked)",
        r"encoder.pos_conv_embed.batch_norm.\1",
    ),
    (rf"encoder\.pos_conv\.1\.{_NORM}", r"encoder.pos_conv_embed.conv.\1"),
]
# What only training uses: masks, targets, quantizers.
_TRAINING = re.compile(
    r"mask_emb|label_embs_concat|(?:final_proj|untie_final_proj|target_glu|quantizer|project_q|project_inp|"
    r"input_quantizer)\b.*"
)
_WRAPPED = ("w2v_encoder.w2v_model.", "w2v_model.")  # inside a fine-tuned model


def read_fairseq(path: Path) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """Read a checkpoint: the fields of transformers' configuration, and the encoder's tensors by transformers' names.

    Raises:
        BadInput: it is no file of torch, or no HuBERT or wav2vec 2.0 of fairseq.
        ArtifactError: tensors that have no place in one.
    """
    try:
        found = read_torch(path)
        if not isinstance(found, dict) or not isinstance(found.get("model"), dict):
            raise BadInput("it holds no model of fairseq: there is no 'model' in it")
        said = _said(found)
        weights = _weights(found["model"])
        state = _renamed(weights)
        return _fields(said, state), state
    except BadInput as error:
        raise BadInput(f"{path} was not read as a fairseq encoder: {error}. Nothing in it was run.") from error
    except ArtifactError as error:
        raise ArtifactError(f"{path} was not read as a fairseq encoder: {error}") from error


def _weights(model: dict[Any, Any]) -> dict[str, Tensor]:
    weights = {str(name): plain(value) for name, value in model.items() if isinstance(plain(value), Tensor)}
    for prefix in _WRAPPED:
        inner = {name.removeprefix(prefix): value for name, value in weights.items() if name.startswith(prefix)}
        if inner:
            return inner
    return weights


def _renamed(weights: dict[str, Tensor]) -> dict[str, torch.Tensor]:
    normed = "encoder.pos_conv.0.running_mean" in weights
    names = [*_NAMES, *(_NORMED_POSITIONS if normed else _PLAIN_POSITIONS)]
    state: dict[str, torch.Tensor] = {}
    lost = []
    for name, tensor in weights.items():
        if _TRAINING.fullmatch(name):
            continue
        ours = next((re.sub(old, new, name) for old, new in names if re.fullmatch(old, name)), None)
        if ours is None:
            lost.append(name[:99])
            continue
        array = tensor.array()
        state[ours] = torch.from_numpy(np.array(array, np.float32 if array.dtype.kind == "f" else array.dtype))
    if lost:
        raise ArtifactError(f"tensors that neither a HuBERT nor a wav2vec 2.0 has: {offenders(lost)}.")
    return state


def _said(found: dict[Any, Any]) -> dict[str, Any]:
    """What the file says of its model: `cfg.model` of newer versions, `args` of older ones; of a fine-tuned one, what
    is said of the model inside."""
    cfg = _unwrapped(found.get("cfg"))
    said = _unwrapped(cfg.get("model")) if isinstance(cfg, dict) else _unwrapped(found.get("args"))
    if isinstance(said, dict) and said.get("w2v_args") is not None:
        inner = _unwrapped(said["w2v_args"])
        inner = _unwrapped(inner.get("model", inner)) if isinstance(inner, dict) else None
        said = inner if isinstance(inner, dict) else said
    if not isinstance(said, dict):
        raise BadInput("it does not say how its model is built: there is neither 'cfg' nor 'args' in it")
    said = {str(name): _unwrapped(value) for name, value in said.items()}
    family = said.get("_name") or said.get("arch")
    if FAMILIES.get(str(family)) is None:
        raise BadInput(f"it holds a model of the kind {str(family)[:99]!r}; read are {', '.join(sorted(FAMILIES))}")
    return said


def _unwrapped(value: Any) -> Any:
    """What a namespace, or a node of omegaconf, holds."""
    for _ in range(4):
        if not isinstance(value, Record):
            return value
        state = value.state
        if isinstance(state, tuple) and len(state) == 2:  # (attributes, slots)
            state = {**(state[0] or {}), **(state[1] or {})}
        if not isinstance(state, dict):
            return value.args[0] if len(value.args) == 1 else None  # an enum's value
        value = next((state[name] for name in ("_content", "_val", "_value_") if name in state), state)
    return value


def _fields(said: dict[str, Any], state: dict[str, torch.Tensor]) -> dict[str, Any]:
    """The configuration; shapes are those of the weights, which are held against it when they are loaded."""
    convolutions = parse_convolutions(_one(said, "conv_feature_layers", str))
    n_layers = 1 + max((int(n.split(".")[2]) for n in state if n.startswith("encoder.layers.")), default=-1)
    positions = state.get(
        "encoder.pos_conv_embed.conv.parametrizations.weight.original1", state.get("encoder.pos_conv_embed.conv.weight")
    )
    wide = state.get("encoder.layers.0.feed_forward.intermediate_dense.weight")
    if positions is None or positions.ndim != 3 or wide is None or wide.ndim != 2:
        raise BadInput("it lacks the weights of a transformer with a positional convolution")
    dim = positions.shape[0]
    if "feature_projection.projection.weight" not in state:
        raise BadInput("its convolutions are as wide as its blocks, without a projection between: not read here")
    mode = _one(said, "extractor_mode", str)
    if mode not in ("default", "layer_norm"):
        raise BadInput(f"its extractor_mode is {mode[:99]!r}")
    return {
        "model_type": FAMILIES[str(said.get("_name") or said.get("arch"))],
        "hidden_size": dim,
        "num_hidden_layers": n_layers,
        "num_attention_heads": _one(said, "encoder_attention_heads", int),
        "intermediate_size": wide.shape[0],
        "hidden_act": str(said.get("activation_fn", "gelu")),
        "conv_dim": [d for d, _, _ in convolutions],
        "conv_kernel": [k for _, k, _ in convolutions],
        "conv_stride": [s for _, _, s in convolutions],
        "num_feat_extract_layers": len(convolutions),
        "conv_bias": "feature_extractor.conv_layers.0.conv.bias" in state,
        "feat_extract_norm": "group" if mode == "default" else "layer",
        "do_stable_layer_norm": _one(said, "layer_norm_first", bool),
        "num_conv_pos_embeddings": positions.shape[2],
        "num_conv_pos_embedding_groups": dim // max(1, positions.shape[1]),
        **({"conv_pos_batch_norm": True} if "encoder.pos_conv_embed.batch_norm.weight" in state else {}),
    }


def _one(said: dict[str, Any], name: str, kind: type) -> Any:
    if type(said.get(name)) is not kind:
        raise BadInput(f"its configuration says of {name} {type(said.get(name)).__name__}, not {kind.__name__}")
    return said[name]


def parse_convolutions(text: str) -> list[tuple[int, int, int]]:
    """(channels, kernel, stride) of each convolution, of text as "[(512,10,5)] + [(512,3,2)] * 4", which is Python in
    fairseq, and run there. Here it is lists of triples, added and repeated, and nothing else.

    Raises:
        BadInput: it is something else, or far too many.
    """
    try:
        if len(text) > 4096:
            raise ValueError
        layers = _sum(ast.parse(text.strip(), mode="eval").body)
    except (ValueError, SyntaxError, RecursionError, MemoryError) as error:
        raise BadInput(f"its convolutions {text[:99]!r} are no list of (channels, kernel, stride)") from error
    if not layers:
        raise BadInput("it has no convolutions")
    return layers


def _sum(node: ast.expr) -> list[tuple[int, int, int]]:
    found: list[tuple[int, int, int]] = []
    match node:
        case ast.BinOp(left=left, op=ast.Add(), right=right):
            found = _sum(left) + _sum(right)
        case ast.BinOp(left=ast.List() as repeated, op=ast.Mult(), right=ast.Constant(value=int() as n)):
            found = _sum(repeated) * min(n, _MOST_CONVOLUTIONS + 1)
        case ast.List(elts=elements):
            for element in elements:
                match element:
                    case ast.Tuple(elts=[ast.Constant(value=d), ast.Constant(value=k), ast.Constant(value=s)]):
                        if not all(type(n) is int and 0 < n < 2**16 for n in (d, k, s)):
                            raise ValueError
                        found.append((d, k, s))  # type: ignore[arg-type]
                    case _:
                        raise ValueError
        case _:
            raise ValueError
    if len(found) > _MOST_CONVOLUTIONS:
        raise ValueError
    return found
