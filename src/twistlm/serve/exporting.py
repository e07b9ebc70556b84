"""A model for servers of text LMs: token ids in and out, no tokenizer of text, and the no-repeat rule beside it."""

from __future__ import annotations

import dataclasses
import json
from importlib import resources
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from twistlm.errors import BadInput
from twistlm.files.atomic import atomic_folder
from twistlm.files.replacing import require_replaceable
from twistlm.lm.model import UnitLM
from twistlm.lm.pretrained import quiet
from twistlm.lm.trainable import merged_state
from twistlm.lm.unit_tokenizer import words

Server = Literal["vllm", "llama.cpp"]
RULE = "no_repeat"  # the name of the module beside the weights
_NAMES = (  # of transformers' Llama and of GGUF
    ("model.embed_tokens.", "token_embd."),
    ("model.norm.", "output_norm."),
    ("lm_head.", "output."),
    ("model.layers.", "blk."),
    ("self_attn.o_proj.", "attn_output."),
    ("self_attn.q_proj.", "attn_q."),
    ("self_attn.k_proj.", "attn_k."),
    ("self_attn.v_proj.", "attn_v."),
    ("input_layernorm.", "attn_norm."),
    ("post_attention_layernorm.", "ffn_norm."),
    ("mlp.gate_proj.", "ffn_gate."),
    ("mlp.up_proj.", "ffn_up."),
    ("mlp.down_proj.", "ffn_down."),
)


def export(lm: UnitLM, folder: str | Path, *, server: Server) -> None:
    """Write a folder that `server` loads; it appears whole or not at all.

    It holds the weights in float32 (`model.safetensors` with `config.json`, or `model.gguf`), `vocab.json` (unit u is
    token u + offset), `unit_spec.json`, and the rule as that server's logits processor, in `RULE`; for llama.cpp's own
    server also as fields of a request, in `request.json`.

    Raises:
        BadInput: an architecture that cannot be written down for that server; something else in `folder`.
    """
    require_replaceable(folder, what="an exported model", mark=f"{RULE}.py")
    with atomic_folder(folder) as temporary:
        if server == "vllm":
            with quiet():
                lm.model.save_pretrained(temporary, state_dict=merged_state(lm.model))
        else:
            write_gguf(lm, temporary / "model.gguf")
            (temporary / "request.json").write_text(json.dumps(request_rules(lm)))
        (temporary / "unit_spec.json").write_text(lm.spec.to_json())
        (temporary / "vocab.json").write_text(json.dumps(dataclasses.asdict(lm.vocab)))
        rule = "no_repeat_vllm.py" if server == "vllm" else "no_repeat_llama_cpp.py"
        text = resources.files("twistlm.serve").joinpath("exported", rule).read_text(encoding="utf-8")
        (temporary / f"{RULE}.py").write_text(text, encoding="utf-8")


def request_rules(lm: UnitLM) -> dict[str, Any]:
    """Return what a request to llama.cpp's own server, which takes no processors, says for the same rules.

    What is no unit is masked. The unit before is forbidden by a penalty on what was present in the last token alone.
    """
    units = range(lm.vocab.offset, lm.vocab.offset + lm.vocab.n_units)
    rules: dict[str, Any] = {
        "logit_bias": [[token, False] for token in range(lm.vocab.size) if token not in units],
        "samplers": ["penalties", "top_k", "temperature"],
        "top_k": 0,
    }
    if lm.spec.deduplicate:
        rules |= {"repeat_last_n": 1, "presence_penalty": 1e9, "repeat_penalty": 1.0, "frequency_penalty": 0.0}
    return rules


def write_gguf(lm: UnitLM, path: Path) -> None:
    """Write a Llama model as a GGUF file of float32 tensors.

    It has no tokenizer of text, but a name for each token, as `<u7>` for unit 7: llama.cpp's server loads a file whose
    tokenizer is "none", and then ends itself when it is to say the first token in words.

    Raises:
        BadInput: another architecture, or something of it that GGUF's "llama" has no place for.
    """
    import gguf

    config: Any = lm.model.config
    rope: dict[str, Any] = getattr(config, "rope_parameters", None) or {}
    if (
        config.model_type != "llama"
        or config.attention_bias
        or rope.get("rope_type", "default") != "default"
        or config.hidden_act not in ("silu", "swish")  # the format has no place for another
    ):
        raise BadInput(
            f"a {config.model_type} model of this shape cannot be exported for llama.cpp: only Llama models with plain "
            "rotary positions, SiLU and no attention biases can. Export it for vllm."
        )
    heads, kv_heads = config.num_attention_heads, config.num_key_value_heads
    width = getattr(config, "head_dim", None) or config.hidden_size // heads
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name("twistlm unit LM")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(heads)
    writer.add_head_count_kv(kv_heads)
    writer.add_key_length(width)
    writer.add_value_length(width)
    writer.add_rope_dimension_count(width)
    writer.add_rope_freq_base(float(rope.get("rope_theta", 10_000.0)))
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(lm.vocab.size)
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    _add_names(writer, lm)
    writer.add_string("twistlm.unit_spec", lm.spec.to_json())
    for name, values in _tensors(lm, heads, kv_heads).items():
        writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _add_names(writer: Any, lm: UnitLM) -> None:
    from gguf import TokenType

    vocab = lm.vocab
    units = range(vocab.offset, vocab.offset + vocab.n_units)
    writer.add_tokenizer_model("llama")
    writer.add_token_list(words(vocab))
    writer.add_token_scores([0.0] * vocab.size)
    writer.add_token_types([TokenType.NORMAL if i in units else TokenType.CONTROL for i in range(vocab.size)])
    writer.add_add_bos_token(False)
    writer.add_add_space_prefix(False)
    writer.add_pad_token_id(vocab.pad)
    # llama.cpp takes tokens 1 and 2 where nothing is said, which are units of a model whose documents have no ends.
    others = [i for i in range(vocab.size) if i not in units]
    for token, add in ((vocab.bos, writer.add_bos_token_id), (vocab.eos, writer.add_eos_token_id)):
        if token is None and not others:
            raise BadInput("this model has no token that is no unit, and llama.cpp wants one that ends a document.")
        add(others[0] if token is None else token)


def _tensors(lm: UnitLM, heads: int, kv_heads: int) -> dict[str, np.ndarray[Any, np.dtype[np.float32]]]:
    found: dict[str, np.ndarray[Any, np.dtype[np.float32]]] = {}
    tied = lm.model.config.tie_word_embeddings
    for name, tensor in (merged_state(lm.model) or lm.model.state_dict()).items():
        if name == "lm_head.weight" and tied:
            continue
        values = tensor.detach().to("cpu", torch.float32).numpy()
        if name.endswith(("q_proj.weight", "k_proj.weight")):
            # transformers keeps the halves of each rotary pair half a head apart, GGUF side by side.
            halves = values.reshape(heads if "q_proj" in name else kv_heads, 2, -1, values.shape[-1])
            values = halves.swapaxes(1, 2).reshape(values.shape)
        for ours, theirs in _NAMES:
            name = name.replace(ours, theirs)
        found[name] = np.ascontiguousarray(values)
    return found
