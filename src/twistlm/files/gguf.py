"""A Llama-family GGUF file as the config.json, model.safetensors and tokenizer.json that transformers loads."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from twistlm.errors import ArtifactError
from twistlm.files.regular import require_regular

_CONTROL = 3  # llama.cpp's kind of tokens that no text holds
_NAMES = {
    "token_embd.": "model.embed_tokens.",
    "output_norm.": "model.norm.",
    "attn_output.": "self_attn.o_proj.",
    "output.": "lm_head.",
    "blk.": "model.layers.",
    "attn_norm.": "input_layernorm.",
    "attn_q.": "self_attn.q_proj.",
    "attn_k.": "self_attn.k_proj.",
    "attn_v.": "self_attn.v_proj.",
    "ffn_norm.": "post_attention_layernorm.",
    "ffn_gate.": "mlp.gate_proj.",
    "ffn_up.": "mlp.up_proj.",
    "ffn_down.": "mlp.down_proj.",
}


def convert(gguf_file: Path, extra: dict[str, float]) -> None:
    """Write config.json, model.safetensors (float32) and, where it is a known one, the tokenizer of a GGUF beside it.

    Done here and not by transformers, whose GGUF loader needs accelerate and refuses to save what it loaded. float32,
    because the quantised weights (scale x integer + offset) are exact in it and would be rounded again in 16 bits.
    """
    import gguf
    from safetensors.numpy import save_file

    reader = gguf.GGUFReader(require_regular(gguf_file, "a GGUF model", error=ArtifactError))
    field = {key: value.contents() for key, value in reader.fields.items() if not key.startswith("tokenizer.ggml.t")}
    if field["general.architecture"] != "llama":
        raise ArtifactError(f"{gguf_file.name} is a {field['general.architecture']!r} model and only 'llama' is read")
    heads, kv_heads = field["llama.attention.head_count"], field["llama.attention.head_count_kv"]
    weights = {}
    for tensor in reader.tensors:
        name, values = tensor.name, gguf.dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
        for theirs, ours in _NAMES.items():
            name = name.replace(theirs, ours)
        if name.endswith(("q_proj.weight", "k_proj.weight")):
            # GGUF keeps the two halves of each rotary pair side by side, transformers half a head apart.
            pairs = values.reshape(heads if "q_proj" in name else kv_heads, -1, 2, values.shape[-1])
            values = pairs.swapaxes(1, 2).reshape(values.shape)
        weights[name] = np.ascontiguousarray(values)
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": len(weights["model.embed_tokens.weight"]),
        "hidden_size": field["llama.embedding_length"],
        "intermediate_size": field["llama.feed_forward_length"],
        "num_hidden_layers": field["llama.block_count"],
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "max_position_embeddings": field["llama.context_length"],
        "rope_theta": field["llama.rope.freq_base"],
        "rms_norm_eps": float(f"{field['llama.attention.layer_norm_rms_epsilon']:.6g}"),  # stored as float32
        "bos_token_id": field["tokenizer.ggml.bos_token_id"],
        "eos_token_id": field["tokenizer.ggml.eos_token_id"],
        "tie_word_embeddings": "lm_head.weight" not in weights,
        "dtype": "float32",
        **extra,
    }
    save_file(weights, gguf_file.with_name("model.safetensors"), metadata={"format": "pt"})
    gguf_file.with_name("config.json").write_text(json.dumps(config, indent=1))
    write_tokenizer(reader, gguf_file.parent)


def write_tokenizer(reader: Any, folder: Path) -> None:
    """Write tokenizer.json and tokenizer_config.json where a GGUF holds SmolLM's byte-level BPE; else nothing.

    GGUF names a tokenizer's splitting by a word and leaves what it means to the reader; "smollm" is: each digit alone,
    then as GPT-2.
    """
    from tokenizers import AddedToken, Tokenizer, decoders, pre_tokenizers
    from tokenizers.models import BPE

    names = ("model", "pre", "tokens", "token_type", "merges", "bos_token_id", "eos_token_id")
    fields = {name: reader.fields.get(f"tokenizer.ggml.{name}") for name in names}
    if None in fields.values():
        return
    model, split, tokens, kinds, merges, bos, eos = (field.contents() for field in fields.values())
    if (model, split) != ("gpt2", "smollm"):
        return
    vocabulary = {token: i for i, token in enumerate(tokens)}
    bpe = BPE(vocab=vocabulary, merges=[(a, b) for a, _, b in (merge.partition(" ") for merge in merges)])
    tokenizer = Tokenizer(bpe)
    digits, words = pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([digits, words])
    tokenizer.decoder = decoders.ByteLevel()
    control = [token for token, kind in zip(tokens, kinds, strict=True) if kind == _CONTROL]
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in control])
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": tokens[bos], "eos_token": tokens[eos]}
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=1))
