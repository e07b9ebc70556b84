"""The shapes of the paper's text LMs, for a plan or a cold start without their weights.

Source: table 1 of OPT (Zhang et al. 2022) and table 2 of LLaMA (Touvron et al. 2023), with the widths of the published
checkpoints' feed-forward layers. With 500 units OPT-125M and OPT-350M have the parameters that Slam (arXiv 2502.15814,
appendix B) counts; the others are not checked against a published count.
"""

from __future__ import annotations

from typing import Any

from transformers import LlamaConfig, OPTConfig, PretrainedConfig


def _opt(width: int, layers: int, heads: int, **more: Any) -> OPTConfig:
    return OPTConfig(hidden_size=width, ffn_dim=4 * width, num_hidden_layers=layers, num_attention_heads=heads, **more)


def _llama(width: int, inner: int, layers: int, heads: int) -> LlamaConfig:
    return LlamaConfig(
        hidden_size=width,
        intermediate_size=inner,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        max_position_embeddings=2048,
        tie_word_embeddings=False,
    )


# name -> (where its weights are published, how its configuration is made)
_SHAPES = {
    "opt-125m": ("facebook/opt-125m", lambda: _opt(768, 12, 12)),
    "opt-350m": ("facebook/opt-350m", lambda: _opt(1024, 24, 16, word_embed_proj_dim=512, do_layer_norm_before=False)),
    "opt-1.3b": ("facebook/opt-1.3b", lambda: _opt(2048, 24, 32)),
    "llama-7b": ("LLaMA-7B of Meta", lambda: _llama(4096, 11_008, 32, 32)),
    "llama-13b": ("LLaMA-13B of Meta", lambda: _llama(5120, 13_824, 40, 40)),
}
PUBLISHED = {name: place for name, (place, _) in _SHAPES.items()}


def named_shape(name: str) -> PretrainedConfig:
    """Return the configuration of the text LM called `name`, one of `PUBLISHED`."""
    return _SHAPES[name][1]()
