"""Published vocoders: every layout under the publisher's names, against transformers' classes where there are any."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from transformers import SeamlessM4TConfig, SeamlessM4Tv2Config
from transformers.models.seamless_m4t.modeling_seamless_m4t import SeamlessM4TCodeHifiGan
from transformers.models.seamless_m4t_v2.modeling_seamless_m4t_v2 import SeamlessM4Tv2CodeHifiGan

from twistlm.errors import ArtifactError, BadInput
from twistlm.files.named import ARTIFACTS
from twistlm.files.regular import file_sha256
from twistlm.files.sources import Bundled
from twistlm.jobs.vocoder_importing import PUBLISHED, take_vocoder
from twistlm.types import Units, UnitSpec
from twistlm.vocoder.generator import InputShape
from twistlm.vocoder.hifigan import HiFiGANConfig
from twistlm.vocoder.published import read_published
from twistlm.vocoder.synthesizer import Synthesizer
from twistlm.vocoder.vocoder import Vocoder
from twistlm.vocoder.voices import Voice

RATES = {"upsample_rates": [5, 2, 2], "upsample_kernel_sizes": [11, 4, 4], "upsample_initial_channel": 16,
         "resblock_kernel_sizes": [3, 5], "resblock_dilation_sizes": [[1, 3], [1, 2]]}  # fmt: skip
CONFIG = {
    **RATES, "num_embeddings": 11, "embedding_dim": 6, "model_in_dim": 6, "sampling_rate": 16_000, "resblock": "1",
    "dur_predictor_params": {
        "encoder_embed_dim": 6, "var_pred_hidden_dim": 6, "var_pred_kernel_size": 3, "var_pred_dropout": 0.5,
    },
}  # fmt: skip


def spec_file(folder: Path, *, hop: int = 20, n_units: int = 11) -> Path:
    spec = UnitSpec(
        encoder="toy", encoder_sha256="0" * 64, layer=1, tap="block_output", normalize_input=False, sample_rate=16_000,
        hop=hop, n_units=n_units, centroids_sha256="1" * 64, deduplicate=True,
    )  # fmt: skip
    (folder / "spec.json").write_text(spec.to_json())
    return folder / "spec.json"


def network(**changes: object) -> Synthesizer:
    """A network as it is trained, with weight normalisation."""
    from twistlm.vocoder.configs import read_shape

    with torch.random.fork_rng():
        torch.manual_seed(0)
        made = Synthesizer(read_shape(json.dumps({**CONFIG, **changes}))).eval()
        with torch.no_grad():
            for p in made.parameters():
                p.mul_(1.5)
        return made


def old_names(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    new = ".parametrizations.weight.original"
    return {k.replace(f"{new}0", ".weight_g").replace(f"{new}1", ".weight_v"): v for k, v in weights.items()}


def units_of(voc: Vocoder, n: int = 30, seed: int = 0) -> Units:
    ids = np.random.default_rng(seed).integers(0, voc.spec.n_units, n).astype(np.uint16)
    return Units(ids=ids, runs=np.ones(n, np.int32), spec=voc.spec, id="x")


def spoken(made: Synthesizer, units: Units, rows: list[int] | None = None) -> np.ndarray:
    frames = torch.from_numpy(units.ids.astype(np.int64))[None]
    with torch.no_grad():
        return made(frames, None if rows is None else torch.tensor([rows]))[0].numpy()


def write_textless(folder: Path, made: Synthesizer, **config: object) -> Path:
    folder.mkdir()
    torch.save({"generator": old_names(made.weights())}, folder / "generator.pt")
    (folder / "config.json").write_text(json.dumps({**CONFIG, "learning_rate": 2e-4, **config}))
    return folder


@pytest.mark.parametrize("new_names", [False, True])
def test_textlesslib_with_durations(tmp_path: Path, new_names: bool) -> None:
    made = network()
    folder = write_textless(tmp_path / "v", made)
    if new_names:
        torch.save({"generator": made.weights(), "steps": 3}, folder / "generator.pt")
    voc, taken, _ = take_vocoder(str(folder), tmp_path / "ours", tokenizer=spec_file(tmp_path))
    units = units_of(voc)
    assert (taken.layout, voc.predicts_durations) == ("code-hifigan", True)
    np.testing.assert_allclose(voc(units, durations="given").samples, spoken(made, units), atol=1e-6)


def test_of_several_checkpoints_none_is_chosen_and_what_was_read_is_told(tmp_path: Path) -> None:
    folder = write_textless(tmp_path / "v", network())
    (folder / "generator.pt").rename(folder / "g_00000000")
    (folder / "g_00050000").write_bytes((folder / "g_00000000").read_bytes())
    with pytest.raises(BadInput, match=r"several files of weights: .*g_00000000.* such as .*g_00050000"):
        take_vocoder(str(folder), tmp_path / "ours", tokenizer=spec_file(tmp_path))
    _, taken, _ = take_vocoder(str(folder / "g_00050000"), tmp_path / "ours", tokenizer=spec_file(tmp_path))
    said = f"g_00050000 (sha256 {file_sha256(folder / 'g_00050000')})"
    assert said in taken.notes[0] and said in (tmp_path / "ours" / "CARD.md").read_text()


def test_a_file_that_is_named_is_read_whatever_an_index_beside_it_lists(tmp_path: Path) -> None:
    first, asked = network(), network()
    folder = write_textless(tmp_path / "v", first)
    (folder / "generator.pt").unlink()
    save_file(old_names(first.weights()), folder / "model-00001-of-00001.safetensors")
    with torch.no_grad():
        asked.dict.weight.add_(1.0)
    save_file(old_names(asked.weights()), folder / "finetuned.safetensors")
    index = {"weight_map": dict.fromkeys(old_names(first.weights()), "model-00001-of-00001.safetensors")}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    for source, network_of in ((folder / "finetuned.safetensors", asked), (folder, first)):
        voc, _, _ = take_vocoder(str(source), tmp_path / f"made-{source.stem}", tokenizer=spec_file(tmp_path))
        torch.testing.assert_close(voc.synthesizer.weights()["dict.weight"], network_of.weights()["dict.weight"])


def test_expresso_has_speakers_and_styles_by_name_and_no_durations(tmp_path: Path) -> None:
    changes = {"model_in_dim": 18, "multispkr": "from_input_file", "multistyle": "from_input_file", "num_speakers": 5,
               "num_styles": 4, "dur_predictor_params": None}  # fmt: skip
    made = network(**changes)
    folder = write_textless(tmp_path / "v", made, **changes)
    (folder / "speakers.txt").write_text("ex01\nex02\nlj\n")
    (folder / "styles.txt").write_text("read-default\nread-happy\n")
    voc, _, _ = take_vocoder(str(folder), tmp_path / "ours", tokenizer=spec_file(tmp_path))
    units = units_of(voc)
    clip = voc(units, durations="given", voice=Voice(speaker="lj", style="read-happy"))
    np.testing.assert_allclose(clip.samples, spoken(made, units, [2, 1]), atol=1e-6)
    with pytest.raises(BadInput, match="no duration predictor"):
        voc(units, durations="predicted", voice=Voice(speaker="lj", style="read-happy"))
    with pytest.raises(BadInput, match=r"not trained on the speaker 'ex04'.*ex01, ex02, lj"):
        voc(units, durations="given", voice=Voice(speaker="ex04", style="read-happy"))
    (folder / "speakers.txt").write_text("\n".join("abcdef"))
    with pytest.raises(BadInput, match="6 names"):
        take_vocoder(str(folder), tmp_path / "other", tokenizer=tmp_path / "spec.json")
    (folder / "speakers.txt").unlink()  # then nobody knows which rows were trained
    voc, _, _ = take_vocoder(str(folder), tmp_path / "nameless", tokenizer=tmp_path / "spec.json")
    with pytest.raises(BadInput, match="do not say which of them were trained"):
        voc(units, durations="given", voice=Voice(style="read-happy"))


@pytest.mark.parametrize("form", ["generator", "model"])
def test_seamless_has_languages_and_their_speakers(tmp_path: Path, form: str) -> None:
    changes = {"num_languages": 36, "language_dim": 4, "num_speakers": 80, "speaker_dim": 5, "model_in_dim": 15}
    made = network(**changes, multispkr=True)
    names = old_names(made.weights())
    if form == "model":
        names = {f"code_generator.{name}": value for name, value in names.items()}
    torch.save({form: names}, tmp_path / "vocoder_v2.pt")
    voc, taken, _ = take_seamless(tmp_path)
    assert taken.layout == "seamless" and voc.voices.languages["eng"] == 8
    units = units_of(voc)
    for voice, rows in ((Voice(language="eng"), [8, 10]), (Voice(language="nld", speaker="37"), [18, 37])):
        clip = voc(units, durations="given", voice=voice)
        np.testing.assert_allclose(clip.samples, spoken(made, units, rows), atol=1e-6)
    with pytest.raises(BadInput, match="not trained on the speaker '79'"):
        voc(units, durations="given", voice=Voice(language="eng", speaker="79"))


def take_seamless(folder: Path):
    """Seamless's files say nothing of their rates; those of its publisher are put aside for the toy's."""
    from twistlm.vocoder import published

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(published, "_USUAL", {**RATES, "sampling_rate": 16_000})
        return take_vocoder(
            str(folder / "vocoder_v2.pt"), folder / "ours", tokenizer=spec_file(folder), voices="seamless-m4t-v2"
        )


SEAMLESS = {
    **RATES, "unit_hifi_gan_vocab_size": 11, "unit_embed_dim": 6, "lang_embed_dim": 4, "spkr_embed_dim": 5,
    "vocoder_num_langs": 36, "vocoder_num_spkrs": 80, "leaky_relu_slope": 0.1, "variance_predictor_kernel_size": 3,
    "var_pred_dropout": 0.5, "sampling_rate": 16_000, "t2u_pad_token_id": 1,
}  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "config", "whole"),
    [
        (SeamlessM4TCodeHifiGan, SeamlessM4TConfig, False),
        (SeamlessM4Tv2CodeHifiGan, SeamlessM4Tv2Config, False),
        (SeamlessM4Tv2CodeHifiGan, SeamlessM4Tv2Config, True),
    ],
)
def test_transformers_classes_speak_and_time_alike(tmp_path: Path, kind, config, whole: bool) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        theirs = kind(config(**SEAMLESS)).eval()
        with torch.no_grad():
            theirs.dur_predictor.proj.bias.fill_(1.2)
            for p in theirs.hifi_gan.parameters():
                p.normal_(0, 0.15)
    folder = tmp_path / "theirs"
    folder.mkdir()
    prefix = "vocoder." if whole else ""
    state = {f"{prefix}{name}": value.contiguous() for name, value in theirs.state_dict().items()}
    if whole:
        state["text_encoder.layer.weight"] = torch.zeros(3)
    save_file(state, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(SEAMLESS))
    (folder / "generation_config.json").write_text(json.dumps({"vocoder_lang_code_to_id": {"eng": 8, "fra": 11}}))
    voc, taken, _ = take_vocoder(
        str(folder), tmp_path / "ours", tokenizer=spec_file(tmp_path), voices="seamless-m4t-v2"
    )
    assert taken.layout == "transformers" and set(voc.voices.languages) == {"eng", "fra"}
    for seed in range(3):
        units = units_of(voc, 40, seed)
        ids = torch.from_numpy(units.ids.astype(np.int64))[None]
        with torch.no_grad():
            expected, _ = theirs(ids, torch.tensor([[10]]), torch.tensor([[8]]))  # speaker, language
        clip = voc(units, durations="predicted", voice=Voice(language="eng"))
        assert len(clip.samples) == expected.shape[-1] > 40 * 20  # the same durations, and not all 1
        np.testing.assert_allclose(clip.samples, expected.squeeze().numpy(), atol=1e-5)
        assert np.abs(clip.samples).max() > 0.05


def test_unit_hifigan_layout(tmp_path: Path) -> None:
    changes = {"model_in_dim": 12, "multispkr": True, "num_speakers": 2, "dur_predictor_params": None}
    made = network(**changes)
    theirs = {}
    for name, value in made.weights().items():
        if name.startswith("resblocks."):
            _, at, convs, layer, leaf = name.split(".", 4)
            stage, block = divmod(int(at), 2)
            name = f"mrfs.{stage}.residual_blocks.{block}.{layer}.conv{convs[-1]}.{leaf}"
        table = {"dict.weight": "unit_embedding.weight", "spkr.weight": "speaker_embedding.weight"}.get(name)
        theirs[table or f"generator.{name.replace('ups.', 'upsamplers.')}"] = value.contiguous()
    folder = tmp_path / "theirs"
    folder.mkdir()
    save_file(theirs, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({"n_units": 11, "speakers": ["bo", "al"], "styles": None}))
    from twistlm.vocoder import published

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(published, "_USUAL", {**RATES, "sampling_rate": 16_000})
        voc, taken, _ = take_vocoder(str(folder), tmp_path / "ours", tokenizer=spec_file(tmp_path))
    units = units_of(voc)
    assert taken.layout == "unit-hifigan" and not voc.predicts_durations
    clip = voc(units, durations="given", voice=Voice(speaker="al"))
    np.testing.assert_allclose(clip.samples, spoken(made, units, [1]), atol=1e-6)


def test_speechbrain_counts_units_from_one_and_mirrors_the_ends(tmp_path: Path) -> None:
    changes = {"dur_predictor_params": None, "padding": "reflect", "num_embeddings": 12}
    made = network(**changes)
    theirs = {}
    for name, value in old_names(made.weights()).items():
        stem, _, leaf = name.rpartition(".")
        theirs["unit_embedding.weight" if name == "dict.weight" else f"{stem}.conv.{leaf}"] = value
    theirs["attn_pooling.0.weight"] = torch.ones(3, 6)
    theirs["var_predictor.proj.weight"] = torch.ones(1, 6)
    torch.save(theirs, tmp_path / "generator.ckpt")
    yaml = "sample_rate: 16000\nupsample_factors: [5, 2, 2] # rates\nupsample_kernel_sizes: [11, 4, 4]\n"
    yaml += "resblock_kernel_sizes: [3, 5]\nresblock_dilation_sizes: [[1, 3], [1, 2]]\ngenerator: !new:x.Y\n    a: 1\n"
    yaml += f"deep: {'[' * 200_000}\n"
    (tmp_path / "hyperparams.yaml").write_text(yaml)
    voc, taken, _ = take_vocoder(str(tmp_path / "generator.ckpt"), tmp_path / "ours", tokenizer=spec_file(tmp_path))
    units = units_of(voc)
    assert taken.layout == "speechbrain" and "duration" in taken.notes[1]
    shifted = dataclasses.replace(units, ids=units.ids + 1, spec=dataclasses.replace(units.spec, n_units=12))
    expected = spoken(made, shifted)
    np.testing.assert_allclose(voc(units, durations="given").samples, expected, atol=1e-6)
    # Mirrored ends are heard in batches and streams as they are alone.
    sound = np.concatenate([*voc.stream(units.ids.tolist(), durations="given")])
    np.testing.assert_allclose(sound, expected, atol=1e-6)
    with pytest.raises(BadInput, match="4 frames at least"):
        voc(units_of(voc, 3), durations="given")
    (tmp_path / "config.json").write_text('{"speechbrain_interface": "UnitHIFIGAN"}')  # stands beside them on the hub
    (tmp_path / "hyperparams.yaml").write_text(yaml.replace("16000", "22050"))
    assert read_published(tmp_path).shape.sampling_rate == 22_050
    (tmp_path / "hyperparams.yaml").write_text(f"{yaml}layers: [1, 3]\n")
    with pytest.raises(BadInput, match="several units a frame"):
        read_published(tmp_path)
    torch.save({**theirs, "conv_pre.conv.weight_v": torch.ones(16, 9, 7)}, tmp_path / "generator.ckpt")
    with pytest.raises(BadInput, match="3 channels beside"):
        read_published(tmp_path)


def test_what_cannot_be_taken_is_named(tmp_path: Path) -> None:
    made, spec = network(), spec_file(tmp_path)
    folder = write_textless(tmp_path / "v", made)

    def refused(word: str, error: type[Exception] = BadInput, *, source: object = folder, **more: object) -> None:
        with pytest.raises(error, match=word):
            take_vocoder(str(source), tmp_path / "ours", **{"tokenizer": spec, **more})
        assert not (tmp_path / "ours").exists()

    refused("nothing says whose units", tokenizer=None)
    (folder / "unit_spec.json").write_text("{}")
    refused("a vocoder of twistlm already")
    refused("a vocoder of twistlm already", source=folder / "generator.pt")
    (folder / "unit_spec.json").unlink()
    refused("neither a file nor a folder", source="no-such")
    refused("another's", tokenizer=spec_file(tmp_path, n_units=12))
    spec_file(tmp_path)
    with pytest.raises(BadInput, match="there already"):
        take_vocoder(str(folder), folder, tokenizer=spec)
    (folder / "config.json").write_text(json.dumps({**CONFIG, "f0": True, "f0_quant_num_bin": 32}))
    refused("pitch curve")
    (folder / "config.json").write_text(json.dumps({**CONFIG, "upsample_rates": [2, 2, 5]}))
    refused("upsampling kernel|do not fit")
    (folder / "config.json").unlink()
    refused("Weights alone do not say")
    (folder / "generator.pt").unlink()
    (folder / "config.json").write_text(json.dumps(CONFIG))
    refused("a config alone cannot speak")
    torch.save({"generator": {"encoder.weight": torch.ones(2)}}, folder / "generator.pt")
    refused("no unit vocoder of a layout that is known")
    (folder / "generator.pt").write_bytes(b"PK\x03\x04 no")
    refused("cannot be read", ArtifactError)
    torch.save({"generator": {"dict.weight": torch.full((11, 6), torch.nan)}}, folder / "generator.pt")
    refused("not finite", ArtifactError)
    torch.save({"generator": {"dict.weight": torch.ones(11, 6), "conv_pre.weight_v": torch.ones(1, 6, 7)}},
               folder / "generator.pt")  # fmt: skip
    refused("lack conv_pre", ArtifactError)
    torch.save({"generator": {"dict.weight": torch.ones(11, 6), "lang.weight": torch.ones(2, 4)}},
               folder / "generator.pt")  # fmt: skip
    refused("missing or of another shape", ArtifactError)


def test_every_published_name_has_files_and_a_licence() -> None:
    assert set(PUBLISHED) == {
        n for n, a in ARTIFACTS.items() if a.kind == "vocoder" and not isinstance(a.sources[0], Bundled)
    }
    for name in PUBLISHED:
        assert ARTIFACTS[name].kind == "vocoder" and ARTIFACTS[name].licence
        if "expresso" in str(ARTIFACTS[name].sources[0]) or name.startswith("seamless"):
            assert "non-commercial" in ARTIFACTS[name].licence


def test_a_published_name_is_taken_over_once_and_then_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from twistlm.files import artifacts
    from twistlm.files.sources import Urls
    from twistlm.jobs import vocoder_importing

    monkeypatch.setenv("TWISTLM_CACHE", str(tmp_path / "cache"))
    name = "fairseq-toy"
    theirs = write_textless(tmp_path / "theirs", network())
    known = file_sha256(theirs / "config.json")
    source = Urls(base=f"{theirs.as_uri()}/", files=(("generator.pt", ""), ("config.json", known)))
    like = ARTIFACTS["hubert-base-ls960-kmeans-100-hifigan-lj"]
    toy = dataclasses.replace(like, name=name, sources=(source,))
    monkeypatch.setitem(ARTIFACTS, name, toy)
    monkeypatch.setitem(PUBLISHED, name, vocoder_importing.Published(tokenizer=str(spec_file(tmp_path))))
    monkeypatch.setattr(
        artifacts, "fetch_url", lambda url, target, most: target.write_bytes(Path(url[7:]).read_bytes())
    )
    with pytest.raises(BadInput, match="not here yet: twist vocoder import fairseq-toy"):
        Vocoder.load(name)
    voc, _, licence = take_vocoder(name, None, tokenizer=None)
    assert "non-commercial" in licence and "non-commercial" in (Path(voc.name) / "CARD.md").read_text()
    units = units_of(voc)
    again = Vocoder.load(name)
    np.testing.assert_array_equal(again(units, durations="given").samples, voc(units, durations="given").samples)
    with pytest.raises(BadInput, match="--out"):
        take_vocoder(str(theirs), None, tokenizer=tmp_path / "spec.json")


def test_input_shape_of_a_published_config_is_the_default_where_it_is_silent() -> None:
    from twistlm.vocoder.configs import read_shape

    shape: InputShape = read_shape(json.dumps({**CONFIG, "multispkr": "_", "model_in_dim": 12}))
    assert isinstance(shape, HiFiGANConfig) and shape.num_speakers == 200 and shape.padding == "zeros"


def test_the_command_line_says_layout_licence_and_durations(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from twistlm.cli.main import command

    changes = {"model_in_dim": 12, "multispkr": "_", "num_speakers": 2, "dur_predictor_params": None}
    folder = write_textless(tmp_path / "v", network(**changes), **changes)
    (folder / "speakers.txt").write_text("ann\nbo\n")

    def run(*words: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            command()([str(word) for word in words])
        said = capsys.readouterr()
        return int(ended.value.code or 0), said.out, said.err

    arguments = ("vocoder", "import", folder, "--out", tmp_path / "ours", "--tokenizer", spec_file(tmp_path))
    code, out, _ = run(*arguments, "--json")
    facts = json.loads(out)
    assert code == 0 and facts["layout"] == "code-hifigan" and facts["speakers"] == ["ann", "bo"]
    assert not facts["predicts_durations"] and facts["licence"] == "as its publisher says"
    code, _, err = run(*arguments)
    assert code == 2 and "is there already" in " ".join(err.split())
    code, out, _ = run("fetch")
    assert code == 0 and "CC BY-NC 4.0: non-commercial" in out and "seamless-m4t-v2-vocoder" in out
