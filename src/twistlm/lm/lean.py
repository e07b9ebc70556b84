"""A few tokens of a Llama-like model in few operations.

At one token a CPU spends as long on transformers' modules as on int8 products. Here queries, keys and values are one
product, gate and up another, and heads that share keys are the rows of one attention. What it computes is the model's
own (RMS norm, rotary positions, grouped attention, gated MLP), in another order of sums and with whatever products it
is given: int8 ones draft, float32 ones say what comes, up to rounding.

Shapes: B rows, T tokens of a row, C columns of the cache, H heads, K heads of keys and values, D width of a head, V
vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from transformers import Cache, LlamaForCausalLM, MistralForCausalLM, PreTrainedModel, Qwen2ForCausalLM

from twistlm.compute.products import Product

LEAN = (LlamaForCausalLM, MistralForCausalLM, Qwen2ForCausalLM)  # exactly these: a subclass may add what is not here

MakeProduct = Callable[[torch.Tensor, torch.Tensor | None], Product]
Each = Callable[[Callable[[Any], Any], Iterable[Any]], Iterable[Any]]


def can_be_lean(model: PreTrainedModel) -> bool:
    """Tell whether `LeanStep` computes what this model does: its class, its activation, plain weights on the CPU."""
    return (
        type(model) in LEAN
        and model.config.hidden_act == "silu"
        and all(p.is_cpu and type(p) is nn.Parameter and p.dtype == torch.float32 for p in model.parameters())
        and all(p.numel() for p in model.parameters())  # none that a server has laid out (`quick_products`)
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
    """The logits behind the next tokens of each row."""

    def __init__(self, model: PreTrainedModel, make: MakeProduct, *, each: Each = map) -> None:
        """Take a model that `can_be_lean`.

        Args:
            model: the model.
            make: returns the product by a weight [M, K] and a bias [M] or None.
            each: maps over the layers; from several threads, where `make` bears that.
        """

        def one(*linears: nn.Linear) -> Product:
            # One alone is not copied.
            weight = torch.cat([m.weight.detach() for m in linears]) if linears[1:] else linears[0].weight.detach()
            return make(weight, _bias(linears))

        inner: Any = model.model
        heads: Any = model.lm_head
        config: Any = model.config
        self.heads, self.shared = config.num_attention_heads, config.num_key_value_heads
        # Copies, small ones: a view would keep all of a mapped file in memory.
        self.embed, self.rotary = inner.embed_tokens.weight.detach().clone(), inner.rotary_emb
        self.last, self.eps = inner.norm.weight.detach().clone(), config.rms_norm_eps
        self.head = one(heads)

        def layer_of(layer: Any) -> _Layer:
            return _Layer(
                before=layer.input_layernorm.weight.detach().clone(),
                between=layer.post_attention_layernorm.weight.detach().clone(),
                qkv=one(layer.self_attn.q_proj, layer.self_attn.k_proj, layer.self_attn.v_proj),
                out=one(layer.self_attn.o_proj),
                gate_up=one(layer.mlp.gate_proj, layer.mlp.up_proj),
                down=one(layer.mlp.down_proj),
            )

        self.layers = list(each(layer_of, inner.layers))

    def __call__(
        self, tokens: torch.Tensor, positions: torch.Tensor, cache: Cache, mask: torch.Tensor | None
    ) -> torch.Tensor:
        """Return [B, T, V].

        Args:
            tokens: int64 [B, T].
            positions: int64 [B, T].
            cache: takes the keys and values of these tokens, and returns all to be looked at.
            mask: bool [B, 1, T, C], which columns each token looks at; None: one token at all, several, the first of
                their rows, at those before them and themselves.
        """
        rows, n = tokens.shape
        x = F.embedding(tokens.flatten(), self.embed)  # [B T, ...], as all that is not attention
        cos, sin = self.rotary(x[:, None], positions.reshape(-1, 1))  # [B T, 1, D]
        width, group = cos.shape[-1], self.heads // self.shared
        if mask is None and n > 1:
            mask = torch.ones(n, n, dtype=torch.bool).tril()[None, None]
        if mask is not None and n > 1:
            mask = mask.repeat(1, 1, group, 1)
        for i, layer in enumerate(self.layers):
            made = layer.qkv(self._normed(x, layer.before)).view(rows * n, -1, width)  # [B T, H + 2 K, D]
            turned, values = made.split((self.heads + self.shared, self.shared), dim=1)
            first, second = turned.chunk(2, dim=2)
            turned = turned * cos + torch.cat((-second, first), dim=2) * sin
            queries, keys = turned.split((self.heads, self.shared), dim=1)
            new = (part.reshape(rows, n, self.shared, width).transpose(1, 2) for part in (keys, values))
            held, said = cache.update(*new, i)
            # Heads of a group look with other queries at the same keys: [B, K, H / K T, D] by [B, K, C, D].
            asked = queries.reshape(rows, n, self.shared, group, width).permute(0, 2, 3, 1, 4)
            seen = F.scaled_dot_product_attention(asked.flatten(2, 3), held, said, mask)
            seen = seen.view(rows, self.shared, group, n, width).permute(0, 3, 1, 2, 4)
            x = x + layer.out(seen.reshape(rows * n, -1))
            gate, up = layer.gate_up(self._normed(x, layer.between)).chunk(2, dim=1)
            x = x + layer.down(F.silu(gate) * up)
        return self.head(self._normed(x, self.last)).view(rows, n, -1)

    def _normed(self, x: torch.Tensor, gain: torch.Tensor) -> torch.Tensor:
        return F.rms_norm(x, gain.shape, gain, self.eps)


def _bias(linears: Any) -> torch.Tensor | None:
    found = [m.bias for m in linears]
    return None if all(b is None for b in found) else torch.cat([b.detach() for b in found])
