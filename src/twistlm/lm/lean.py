"""One token of a Llama-like model in few operations, for drafts.

At one token a CPU spends as long on transformers' modules as on int8 products. Here queries, keys and values are one
product, gate and up another, and heads that share keys are the rows of one attention. What it computes is the model's
own (RMS norm, rotary positions, grouped attention, gated MLP), in another order of sums and with whatever products it
is given, so it makes drafts and judges nothing.

Shapes: B rows, C columns of the cache, H heads, K heads of keys and values, D width of a head, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from transformers import Cache, LlamaForCausalLM, MistralForCausalLM, PreTrainedModel, Qwen2ForCausalLM

from twistlm.compute.products import Product

LEAN = (LlamaForCausalLM, MistralForCausalLM, Qwen2ForCausalLM)  # exactly these: a subclass may add what is not here

MakeProduct = Callable[[torch.Tensor, torch.Tensor | None], Product]


def can_be_lean(model: PreTrainedModel) -> bool:
    """Tell whether `LeanStep` computes what this model does: its class, its activation, plain weights on the CPU."""
    return (
        type(model) in LEAN
        and model.config.hidden_act == "silu"
        and all(p.is_cpu and type(p) is nn.Parameter and p.dtype == torch.float32 for p in model.parameters())
        and all(type(m) is nn.Linear for name, m in model.named_modules() if name.endswith(("_proj", "lm_head")))
    )


@dataclass(frozen=True, kw_only=True)
class _Layer:
    before: torch.Tensor  # gains of its two norms
    between: torch.Tensor
    qkv: Product
    out: Product
    gate_up: Product
    down: Product


class LeanStep:
    """The next token's logits of each row."""

    def __init__(self, model: PreTrainedModel, make: MakeProduct) -> None:
        """Take a model that `can_be_lean`.

        Args:
            model: the model.
            make: returns the product by a weight [M, K] and a bias [M] or None.
        """
        inner: Any = model.model
        heads: Any = model.lm_head
        config: Any = model.config
        self.heads, self.shared = config.num_attention_heads, config.num_key_value_heads
        # Copies, small ones: a view would keep all of a mapped file in memory.
        self.embed, self.rotary = inner.embed_tokens.weight.detach().clone(), inner.rotary_emb
        self.last, self.eps = inner.norm.weight.detach().clone(), config.rms_norm_eps
        self.head = make(heads.weight.detach(), _bias([heads]))
        self.layers = [
            _Layer(
                before=layer.input_layernorm.weight.detach().clone(),
                between=layer.post_attention_layernorm.weight.detach().clone(),
                qkv=_one(make, layer.self_attn.q_proj, layer.self_attn.k_proj, layer.self_attn.v_proj),
                out=_one(make, layer.self_attn.o_proj),
                gate_up=_one(make, layer.mlp.gate_proj, layer.mlp.up_proj),
                down=_one(make, layer.mlp.down_proj),
            )
            for layer in inner.layers
        ]

    def __call__(
        self, tokens: torch.Tensor, positions: torch.Tensor, cache: Cache, mask: torch.Tensor | None
    ) -> torch.Tensor:
        """Return [B, V].

        Args:
            tokens: int64 [B].
            positions: int64 [B].
            cache: takes the keys and values of this token, and returns all to be looked at.
            mask: bool [B, 1, 1, C], which columns each row looks at; None: all.
        """
        x = F.embedding(tokens, self.embed)
        cos, sin = self.rotary(x[:, None], positions[:, None])  # [B, 1, D]
        n, width = len(tokens), cos.shape[-1]
        turning = self.heads + self.shared
        for i, layer in enumerate(self.layers):
            made = layer.qkv(self._normed(x, layer.before)).view(n, -1, width)  # [B, H + 2 K, D]
            turned, values = made.split((turning, self.shared), dim=1)
            first, second = turned.chunk(2, dim=2)
            turned = turned * cos + torch.cat((-second, first), dim=2) * sin
            queries, keys = turned.split((self.heads, self.shared), dim=1)
            held, said = cache.update(keys[:, :, None], values[:, :, None], i)
            # Heads of a group look with other queries at the same keys: [B, K, H / K, D] by [B, K, C, D].
            seen = F.scaled_dot_product_attention(queries.reshape(n, self.shared, -1, width), held, said, mask)
            x = x + layer.out(seen.reshape(n, -1))
            gate, up = layer.gate_up(self._normed(x, layer.between)).chunk(2, dim=1)
            x = x + layer.down(F.silu(gate) * up)
        return self.head(self._normed(x, self.last))

    def _normed(self, x: torch.Tensor, gain: torch.Tensor) -> torch.Tensor:
        return F.rms_norm(x, gain.shape, gain, self.eps)


def _one(make: MakeProduct, *linears: nn.Linear) -> Product:
    """Return one product that gives the results of several, one behind the other."""
    return make(torch.cat([m.weight.detach() for m in linears]), _bias(linears))


def _bias(linears: Any) -> torch.Tensor | None:
    found = [m.bias for m in linears]
    return None if all(b is None for b in found) else torch.cat([b.detach() for b in found])
