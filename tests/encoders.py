"""Stand-ins for the published encoders: their true architectures, few channels or all of them, random weights."""

from __future__ import annotations

import torch
import transformers

CONV_50HZ = {"conv_kernel": (10, 3, 3, 3, 3, 2, 2), "conv_stride": (5, 2, 2, 2, 2, 2, 2)}
CONV_25HZ = {
    "conv_kernel": (10, 3, 3, 3, 3, 2, 2, 2),
    "conv_stride": (5, 2, 2, 2, 2, 2, 2, 2),
    "num_feat_extract_layers": 8,
}
BASE = {"feat_extract_norm": "group", "conv_bias": False, "do_stable_layer_norm": False}
LARGE = {"feat_extract_norm": "layer", "conv_bias": True, "do_stable_layer_norm": True}

# name: (how the classes of transformers begin, what sets this encoder apart)
ARCHITECTURES = {
    "hubert-base": ("Hubert", {**CONV_50HZ, **BASE}),
    "hubert-large": ("Hubert", {**CONV_50HZ, **LARGE}),
    "mhubert-25hz": ("Hubert", {**CONV_25HZ, **BASE, "conv_pos_batch_norm": True}),
    "wavlm-base": ("WavLM", {**CONV_50HZ, **BASE}),
    "wavlm-large": ("WavLM", {**CONV_50HZ, **LARGE}),
    "wav2vec2-base": ("Wav2Vec2", {**CONV_50HZ, **BASE}),
    "wav2vec2-large": ("Wav2Vec2", {**CONV_50HZ, **LARGE}),
    "data2vec-audio": ("Data2VecAudio", {**CONV_50HZ, "conv_bias": False, "num_conv_pos_embeddings": 5}),
}
NAMES = [*ARCHITECTURES, "whisper"]
LAYERS = 3


def stand_in(name: str, *, seed: int = 0, narrow: bool = True, layers: int = LAYERS):
    """(a whole model of transformers, fields of its configuration); `narrow` leaves a few channels of each tensor."""
    if name == "whisper":
        narrow_fields = {
            "d_model": 32,
            "encoder_attention_heads": 2,
            "encoder_ffn_dim": 64,
            "max_source_positions": 100,
        }
        fields = narrow_fields if narrow else {}
        config = transformers.WhisperConfig(
            encoder_layers=layers, decoder_layers=1, decoder_attention_heads=2, decoder_ffn_dim=16, vocab_size=60,
            pad_token_id=0, bos_token_id=1, eos_token_id=2, decoder_start_token_id=1, **fields,
        )  # fmt: skip
        kind = transformers.WhisperModel
    else:
        family, fields = ARCHITECTURES[name]
        n_conv = len(fields["conv_kernel"])
        large = {"hidden_size": 1024, "num_attention_heads": 16, "intermediate_size": 4096} if "large" in name else {}
        size = {"conv_dim": (512,) * n_conv, **large}
        if narrow:
            size = {"conv_dim": (8,) * n_conv, "hidden_size": 32, "num_attention_heads": 2, "intermediate_size": 64}
            size |= {"num_conv_pos_embedding_groups": 4}
        config = getattr(transformers, f"{family}Config")(**fields, **size, num_hidden_layers=layers)
        kind = getattr(transformers, f"{family}Model")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = kind(config).eval()
        # Trained biases, norms and statistics are not zeros and ones, and only then does a leak from padding show.
        for parameter in model.parameters():
            parameter.data += 0.1 * parameter.detach().std().nan_to_num(1.0).clamp(0.2) * torch.randn_like(parameter)
        for buffer in model.buffers():
            if buffer.is_floating_point():
                buffer.data = buffer.data + torch.rand_like(buffer)
    return model, config.to_dict()


def encoder_state(model) -> dict[str, torch.Tensor]:
    """The encoder's tensors by their bare names."""
    return (model.encoder if hasattr(model, "decoder") else model).state_dict()
