"""`twist eval RUN SUITE…` on tiny models and benchmarks laid out as the published ones."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from standins import Tiny
from suite_standins import make_multispeaker, make_prosaudit, make_salmon, make_sblimp, make_swuggy
from test_cli import twist  # noqa: F401
from twistlm.evaluate.averages import ScoredPairs
from twistlm.evaluate.leaderboard import leaderboard
from twistlm.evaluate.suites.catalogue import open_suite
from twistlm.evaluate.topline import score_texts
from twistlm.evaluate.unit_cache import tokenize_suite
from twistlm.jobs import evaluating
from twistlm.lm.folders import load_model
from twistlm.lm.model import UnitLM
from twistlm.lm.score import score
from twistlm.lm.warmstart import cold_start
from twistlm.types import UnitSpec
from twistlm.units.tokenizer import SpeechTokenizer


@pytest.fixture(scope="module")
def bench(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two models of tiny's units and five benchmarks."""
    root = tmp_path_factory.mktemp("bench")
    spec = UnitSpec.from_json((tiny.tokenizer / "spec.json").read_text())
    for name, seed in (("a", 0), ("b", 1)):
        cold_start(tiny.text_lm, spec, seed=seed).save(root / name / "lm")
    make_swuggy(root / "slm21")
    make_sblimp(root / "slm21")
    make_prosaudit(root / "prosaudit")
    make_salmon(root / "salmon")
    make_multispeaker(root / "sSC")
    return root


@pytest.fixture(autouse=True)
def cache(bench: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TWISTLM_CACHE", str(bench / "cache"))


def test_all_suites_two_models_and_a_rerun(twist, tiny: Tiny, bench: Path, tmp_path, monkeypatch):  # noqa: F811
    suites = [f"swuggy-dev={bench}/slm21", f"sblimp-dev={bench}/slm21", f"prosaudit-dev={bench}/prosaudit"]
    suites += [f"salmon={bench}/salmon", f"storycloze={bench}/sSC"]
    command = ["eval", bench / "a", *suites, "--against", bench / "b", "--normalize", "both"]
    command += ["--tokenizer", tiny.tokenizer, "--out", tmp_path / "out", "--json"]
    found = twist(*command)
    assert found.code == 0, found.err
    numbers = found.json["suites"]
    assert list(numbers) == ["swuggy-dev", "sblimp-dev", "prosaudit-dev", "salmon", "storycloze"]
    for suite, of in numbers.items():
        assert json.loads((tmp_path / "out" / f"{suite}.json").read_text()) == of
        assert len(of["checksum"]) == 64 and of["version"] and of["unit_spec"] == found.json["unit_spec"]
        for rule in ("mean", "sum"):
            assert of["protocols"][rule].startswith("from its own <s>; ")
            first, second = of["scores"][rule]
            for group, gap in of["differences"][rule].items():
                one, other = first["groups"][group], second["groups"][group]
                assert gap["mean"] == pytest.approx(one["accuracy"] - other["accuracy"], abs=1e-12)
                assert 0 < gap["p"] <= 1 and one["n"] == other["n"] >= 1
    groups = numbers["swuggy-dev"]["scores"]["mean"][0]["groups"]
    assert {"all", "vocabulary=in", "vocabulary=oov", "frequency=1-5", "voice=C"} <= set(groups)
    assert (groups["all"]["n"], groups["all"]["n_pairs"]) == (4, 9)
    tables = sorted((tmp_path / "out").glob("*.parquet"))
    assert len(tables) == 10
    table = pq.read_table(next(t for t in tables if t.name.startswith("salmon")))
    assert {"id", "facet.part", "positive_logprob", "n_negative", "outcome_mean", "outcome_sum"} <= set(
        table.column_names
    )

    def never(*args, **options):
        raise AssertionError("a rerun must not load a model")

    monkeypatch.setattr(evaluating, "load_model", never)
    assert twist(*command).json == found.json
    text = twist(*command[:-1]).out
    assert "swuggy-dev: version" in text and "vocabulary=in" in text and "p = " in text and "summed" in text
    less = [bench / "a", suites[0], "--normalize", "sum", *command[-5:]]  # no longer against b, nor per unit
    monkeypatch.setattr(evaluating, "load_model", load_model)
    assert "held scores against another model, by mean, and was replaced" in twist("eval", *less).json["notes"][0]
    assert twist("eval", *less).json["notes"] == []
    twist("eval", bench / "a", "--out", bench / "b" / "lm").refused("holds a model, which results in it would change")


def test_the_card_of_a_model_has_its_scores(twist, tiny: Tiny, bench: Path, tmp_path):  # noqa: F811
    for name in "ab":  # with a card that has no scores yet
        UnitLM.load(bench / name / "lm").save(tmp_path / name / "lm")
    card, other = (tmp_path / name / "lm" / "README.md" for name in ("a", "b"))
    before, untouched = card.read_text(), other.read_text()
    assert "What was measured" not in before
    command = ["eval", tmp_path / "a", "--tokenizer", tiny.tokenizer, "--json"]
    found = twist(*command, f"sblimp-dev={bench}/slm21", "--against", tmp_path / "b").json["suites"]["sblimp-dev"]
    text = card.read_text()
    assert text.startswith(before.rstrip()) and other.read_text() == untouched
    for rule in ("mean", "sum"):
        score = found["scores"][rule][0]["groups"]["all"]
        low, high = score["ci"]
        row = next(line for line in text.splitlines() if line.startswith("| sblimp-dev") and f"| {rule} |" in line)
        assert found["version"].replace("_", r"\_") in row and f"| {score['accuracy']:.1%} |" in row
        assert f"| {low:.1%} to {high:.1%} | {score['n']} |" in row
        assert "from its own" in row and ("per unit" in row or "summed" in row)

    units = tmp_path / "units"
    assert twist("tokenize", tiny.speech, "--out", units, "--tokenizer", tiny.tokenizer).code == 0
    more = twist(*command, f"swuggy-dev={bench}/slm21", "--units", units, "--split", "train", "--out", tmp_path / "out")
    held = more.json["perplexity"]
    text = card.read_text()
    assert text.count("## What was measured") == 1
    rows = text.partition("## What was measured")[2].splitlines()
    assert [row.split(",")[0] for row in rows if row.startswith(("| p", "| s"))] == [
        "| perplexity", "| perplexity", "| sblimp-dev", "| sblimp-dev", "| swuggy-dev", "| swuggy-dev",
    ]  # fmt: skip
    assert f"| {held['val_ppl']:.2f} |" in text and f"| {held['bits_per_second']:.2f} |" in text

    card.write_text(text.replace("## Where it came from", "## By my hand") + "\nMine too.\n")
    twist(*command, f"sblimp-dev={bench}/slm21", "--normalize", "sum")
    text = card.read_text()
    assert "## By my hand" in text and text.endswith("Mine too.\n")
    assert text.count("| sblimp-dev") == 2, "what was measured by mean is as true as before"
    assert text.count("| swuggy-dev") == 2 and text.count("| perplexity") == 2, "though their results lie elsewhere"
    weights = tmp_path / "a" / "lm" / "model.safetensors"
    UnitLM.load(bench / "b" / "lm").save(tmp_path / "c" / "lm")
    weights.write_bytes((tmp_path / "c" / "lm" / "model.safetensors").read_bytes())
    twist(*command, f"sblimp-dev={bench}/slm21", "--normalize", "sum")
    text = card.read_text()
    assert text.count("| sblimp-dev") == 1 and "| swuggy-dev" not in text, "of other weights nothing is left"


def test_the_final_token_counted_is_another_protocol(twist, tiny: Tiny, bench: Path, tmp_path):  # noqa: F811
    command = ["eval", bench / "a", f"sblimp-dev={bench}/slm21", "--normalize", "mean", "--json"]
    command += ["--tokenizer", tiny.tokenizer, "--out", tmp_path]
    plain = twist(*command).json["suites"]["sblimp-dev"]
    ended = twist(*command, "--end-token").json["suites"]["sblimp-dev"]
    assert "final <s> not counted" in plain["protocols"]["mean"] and "end" not in plain
    assert "final <s> counted" in ended["protocols"]["mean"] and ended["end"] == "counted"
    assert json.loads((tmp_path / "sblimp-dev.json").read_text()) == plain
    assert json.loads((tmp_path / "sblimp-dev.end.json").read_text()) == ended
    blocks = next(s for s in leaderboard([tmp_path]) if s.key == "sblimp").blocks
    assert {b.rows[0].protocol["end"] for b in blocks if b.ours} == {"counted", "not counted"}

    tok = SpeechTokenizer.load(tiny.tokenizer)
    one = tokenize_suite(open_suite(f"sblimp-dev={bench}/slm21"), tok, cache=bench / "units")
    ids = sorted(one.units)
    oracle = score(UnitLM.load(bench / "a" / "lm"), [one.units[i].ids for i in ids], include_end=True)
    table = ScoredPairs.read(next(tmp_path.glob("*.end.parquet"))).table.to_pydict()
    for side in ("positive", "negative"):
        found = zip(table[side], table[f"{side}_logprob"], table[f"n_{side}"], strict=True)
        for clip, total, n in found:
            of = oracle[ids.index(clip)]
            assert n == of.n == len(one.units[clip]) + 1 and total == pytest.approx(of.sum_logprob, abs=1e-4)
    assert twist(*command, "--end-token").json["suites"]["sblimp-dev"] == ended


def test_a_broken_table_or_another_sound_is_scored_again(twist, tiny: Tiny, bench: Path, tmp_path):  # noqa: F811
    make_prosaudit(tmp_path / "pros")
    command = ["eval", bench / "a", f"prosaudit-dev={tmp_path}/pros", "--normalize", "sum", "--json"]
    command += ["--tokenizer", tiny.tokenizer, "--out", tmp_path / "out"]
    before = twist(*command).json["suites"]["prosaudit-dev"]
    folder = tmp_path / "pros" / "english" / "dev"
    (folder / "pl10.wav").write_bytes((bench / "slm21/lexical/dev/A1w.wav").read_bytes())
    after = twist(*command).json["suites"]["prosaudit-dev"]
    assert after["version"] == before["version"] and after["checksum"] != before["checksum"]


def test_a_submission(twist, tiny: Tiny, bench: Path, tmp_path):  # noqa: F811
    suites = [f"swuggy-dev={bench}/slm21", f"sblimp-dev={bench}/slm21", f"prosaudit-dev={bench}/prosaudit"]
    command = ["eval", bench / "a", *suites, "--tokenizer", tiny.tokenizer, "--out", tmp_path / "out"]
    command += ["--submission", tmp_path / "sub"]
    twist(*command, "--normalize", "both").refused("--normalize mean or")
    assert twist(*command, "--normalize", "mean").code == 0
    places = {"sLM21/syntactic/dev.txt": "slm21/syntactic/dev", "prosAudit/english_dev.txt": "prosaudit/english/dev"}
    for place, data in places.items():
        lines = (tmp_path / "sub" / place).read_text().splitlines()
        assert {line.split(" ")[0] for line in lines} == {f.stem for f in (bench / data).glob("*.wav")}
    assert (tmp_path / "sub/sLM21/lexical/dev.txt").is_file()


@pytest.fixture(scope="module")
def text_lm(tiny: Tiny, bench: Path) -> Path:
    """The tiny text LM with a tokenizer of whole words."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = ("<s>", "?", "s1", "s2", "s3", "ends", "well", "badly", ".", "Sentence", "1", "2", "3", "are", "twice", ",")
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="?"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    folder = bench / "text-lm"
    shutil.copytree(tiny.text_lm, folder)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", unk_token="?").save_pretrained(folder)
    return folder


def test_the_text_topline_equals_an_oracle(text_lm: Path):
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model, tokenizer = AutoModelForCausalLM.from_pretrained(text_lm).eval(), AutoTokenizer.from_pretrained(text_lm)
    texts = {"a": "s1 ends well.", "b": "Sentence 3, twice", "c": "s1 ends well.", "d": "are"}
    found = score_texts(text_lm, texts, batch_tokens=9)
    assert found["a"] == found["c"]
    for i, text in texts.items():
        tokens, total = [0], 0.0
        for token in tokenizer(text)["input_ids"]:
            with torch.no_grad():
                total += float(model(torch.tensor([tokens])).logits[0, -1].double().log_softmax(0)[token])
            tokens.append(token)
        assert found[i] == (pytest.approx(total, abs=1e-4), len(tokens) - 1)


def test_toplines_where_there_are_transcripts(twist, tiny: Tiny, text_lm: Path, bench: Path, tmp_path):  # noqa: F811
    suites = [f"sblimp-dev={bench}/slm21", f"storycloze={bench}/sSC", f"swuggy-dev={bench}/slm21"]
    command = ["eval", bench / "a", *suites, "--tokenizer", tiny.tokenizer, "--out", tmp_path / "out"]
    command += ["--normalize", "mean", "--topline", text_lm]
    found = twist(*command, "--json").json["suites"]
    assert found["swuggy-dev"]["topline"] is None
    table = ScoredPairs.read(next((tmp_path / "out").glob("storycloze.topline-*.parquet")))
    scores = score_texts(text_lm, {"w": "s1 ends well.", "b": "s1 ends badly."})
    better = scores["w"][0] / scores["w"][1] > scores["b"][0] / scores["b"][1]
    outcome = dict(zip(table.table.column("id").to_pylist(), table.outcomes("mean"), strict=True))
    assert outcome["bm/s1"] == outcome["af/s1"] == float(better)
    top = found["storycloze"]["topline"]["scores"]["mean"]["all"]
    assert top["accuracy"] == pytest.approx(table.outcomes("mean").mean()) and top["n"] == 3
    text = twist(*command).out
    assert "text topline" in text and "no text topline" in text
    twist(*command[:-1], tiny.text_lm).refused("no text tokenizer", code=1)


def test_refusals_come_before_any_work(twist, tiny: Tiny, other_tokenizer: Path, bench: Path, tmp_path):  # noqa: F811
    suite = f"sblimp-dev={bench}/slm21"
    rest = ["--tokenizer", tiny.tokenizer, "--out", tmp_path / "out"]
    twist("eval", bench / "a", "sblimp", *rest).refused("no suite 'sblimp'", "sblimp-dev")
    twist("eval", bench / "a", suite, suite, *rest).refused("named twice: sblimp-dev")
    twist("eval", bench / "none", suite, *rest).refused("no such folder")
    twist("eval", bench / "a", suite, *rest[2:], "--tokenizer", other_tokenizer).refused("do not speak the same units")
    one = ["--submission", tmp_path / "sub", "--normalize", "sum"]
    twist("eval", bench / "a", f"salmon={bench}/salmon", *rest, *one).refused("none of the")
    assert not (tmp_path / "out").exists() and not (tmp_path / "sub").exists()


def test_a_table_is_not_buried_under_groups() -> None:
    score = {"accuracy": 0.5, "ci": (0.4, 0.6), "n": 9, "n_pairs": 9}
    groups = {"all": score} | {f"voice={n}": score for n in range(20)} | {f"topic={n}": score for n in range(21)}
    of = {
        "version": "1", "checksum": "ab", "protocols": {"mean": "by mean"}, "differences": {},
        "scores": {"mean": [{"groups": groups}]},
    }  # fmt: skip
    lines = evaluating.table({"suites": {"mini": of}}).splitlines()
    assert sum("voice=" in line for line in lines) == 20 and not any("topic=" in line for line in lines)
    assert lines[-1] == "    topic: 21 groups, in mini.json"


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (["--samples", "2"], "--samples: of what a model says, which is measured with --generation"),
        (["--generation", "--topline", "smollm2-135m"], "--topline: not of what a model says"),
        (["--generation", "--context", "64", "--split", "test"], "--context, --split: not of what a model says"),
        (["--generation", "--normalize", "sum"], "--normalize: not of what a model says"),
        (["--generation", "--protocol", "gslm", "--judge", "smollm2-135m"], "Judge in the protocol ours"),
        (["--generation", "--protocol", "hers"], "there is no protocol 'hers'"),
        (["--generation", "--prompts", "libri"], "there are no prompts 'libri'"),
        (["--generation", "--quality", "ears"], "there is no judge of sound ears"),
        (["--generation", "--judge-price", "1,2"], "name one with --judge"),
        (["--generation", "--judge", "x", "--judge-price", "1"], "two prices of a million tokens"),
        (["--generation", "--judge", "x", "--judge-price", "1,nan"], "two prices of a million tokens"),
        (["--judge-price", "1,2"], "--judge-price"),
    ],
)
def test_generation_says_what_it_cannot_do(twist, bench: Path, tiny: Tiny, options: list[str], why: str):  # noqa: F811
    found = twist("eval", bench / "a", *options, "--tokenizer", tiny.tokenizer, "--vocoder", tiny.vocoder)
    if "--generation" not in options:
        found = twist("eval", bench / "a", *options)
    assert found.code == 2 and why in " ".join(found.err.split())


@pytest.mark.slow
@pytest.mark.network
def test_generation_from_prompts_to_a_page(
    twist,  # noqa: F811
    tiny: Tiny,
    bench: Path,
    text_lm: Path,
    tmp_path,
    monkeypatch,
):
    """The recogniser, the judge of sound, the voice encoder and the text embedder are the real ones."""
    monkeypatch.delenv("TWISTLM_CACHE")
    command = ["eval", bench / "a", f"storycloze={bench}/sSC", "--generation", "--against", bench / "b"]
    command += ["--n-prompts", 3, "--text-lm", text_lm, "--judge", text_lm, "--tokenizer", tiny.tokenizer]
    command += ["--judge-price", "1,4"]
    command += ["--vocoder", tiny.vocoder, "--out", tmp_path]
    found = twist(*command, "--json")
    assert found.code == 0, found.err
    [results] = (tmp_path / "generation").glob("ours-*.json")
    told = json.loads(results.read_text())
    assert told["prompts"]["n"] == 3 and told["differences"]["between"] == ["a", "b"]
    assert set(told["likelihoods"]["storycloze"]) == {"a", "b"}
    assert told["judge"]["pairwise"]["n"] == 3 and told["judge"]["unread"] == 0
    bill = told["judge"]["bill"]
    assert bill["cost"] == pytest.approx((bill["tokens_in"] + 4 * bill["tokens_out"]) / 1e6) and bill["tokens_in"] > 0
    page = results.with_suffix(".html").read_text()
    sounds = sorted(results.parent.glob("parts/*/*.flac"))
    assert len(sounds) == 3 * 4 and all(str(one.relative_to(results.parent)) in page for one in sounds)
    again = twist(*command)
    assert again.code == 0 and "GenPPL" in again.out and "storycloze, a: local" in again.out
    assert "was replaced" not in again.out and found.json["notes"] == []
    alone = [one for one in command if one not in ("--against", bench / "b")]
    assert "held results of other models, seed, and was replaced: --out keeps both" in twist(*alone, "--seed", 1).out
