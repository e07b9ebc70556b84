"""The leaderboard: protocols and copies of a suite stay apart, and what is not comparable is said to be so."""

from __future__ import annotations

import json
import tomllib
from importlib.resources import files
from pathlib import Path

import pytest

from test_cli import twist  # noqa: F401
from twistlm.errors import BadInput
from twistlm.evaluate import leaderboard as module
from twistlm.evaluate.leaderboard import Row, leaderboard, published
from twistlm.pages.leaderboard import values, write_page


def write_results(run: Path, suite: str, groups: dict, *, rules=("mean", "sum"), checksum="c" * 64) -> None:
    """What `twist eval` leaves of one suite; groups: name -> (accuracy, n)."""
    cells = {g: {"accuracy": a, "ci": [a - 0.02, a + 0.02], "n": n, "n_pairs": 4 * n} for g, (a, n) in groups.items()}
    by_model = [{"model": str(run), "model_sha256": f"{run.name:x<64}", "groups": cells}]
    facts = {"suite": suite, "version": "v1", "checksum": checksum, "unit_spec": "0123456789abcdef"}
    (run / "eval").mkdir(parents=True, exist_ok=True)
    (run / "eval" / f"{suite}.json").write_text(json.dumps(facts | {"scores": dict.fromkeys(rules, by_model)}))


@pytest.fixture
def runs(tmp_path: Path) -> list[Path]:
    for name, accuracy in (("<a>", 0.55), ("b", 0.6125)):
        run = tmp_path / name
        write_results(run, "swuggy-dev", {"all": (accuracy, 100), "vocabulary=in": (accuracy + 0.1, 50)})
        write_results(run, "sblimp-dev", {"all": (accuracy, 90), "mean over types": (accuracy - 0.01, 90)})
        write_results(run, "storycloze", {"all": (accuracy, 30)})
        write_results(run, "salmon", {"all": (accuracy, 80), "part=rir_consistency": (accuracy, 10)})
        write_results(run, "mini_swuggy", {"all": (accuracy, 20)}, checksum=name * 2)
    return [tmp_path / "<a>", tmp_path / "b"]


def test_protocols_and_copies_of_a_suite_are_blocks_of_their_own(runs: list[Path]) -> None:
    sections = {section.key: section for section in leaderboard(runs)}
    ours = [block for block in sections["swuggy"].blocks if block.ours]
    assert [block.rows[0].protocol["normalize"] for block in ours] == ["mean", "sum"]
    assert [[row.accuracy for row in block.rows] for block in ours] == [[0.6125, 0.55]] * 2
    assert sections["swuggy-in"].blocks[0].rows[1].accuracy == pytest.approx(0.65)
    assert sections["sblimp-macro"].blocks[0].rows[1].accuracy == pytest.approx(0.54)
    assert sections["salmon-rir_consistency"].blocks[0].rows[0].n == 10 and "salmon" not in sections
    # The two runs were scored on two copies of mini sWUGGY: never in one table.
    assert [len(block.rows) for block in sections["mini_swuggy"].blocks] == [1, 1, 1, 1]
    assert not sections["mini_swuggy"].published and sections["swuggy"].published
    for section in sections.values():
        for block in section.blocks:
            assert len({(tuple(row.protocol.items()), row.source == "") for row in block.rows}) == 1
            assert block.ours == all(row.facts is not None and row.ci and row.n for row in block.rows)
    again = leaderboard([*runs, *runs])
    assert [len(b.rows) for s in again for b in s.blocks] == [len(b.rows) for s in sections.values() for b in s.blocks]


def test_a_suite_that_is_laid_out_like_a_published_one_stands_alone(runs: list[Path]) -> None:
    path = runs[0] / "eval" / "sblimp-dev.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"made_by": "twist bench"}))
    sections = {section.key: section for section in leaderboard(runs)}
    assert not sections["sblimp (twist bench)"].published
    assert {row.model for row in sections["sblimp (twist bench)"].blocks[0].rows} == {str(runs[0])}
    assert {row.model for block in sections["sblimp"].blocks if block.ours for row in block.rows} == {str(runs[1])}


def test_only_equal_protocols_are_comparable(runs: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    full = {"normalize": "mean", "end": "not counted", "split": "dev"}
    stated = [full, full | {"split": "test"}, {"normalize": "sum"}, {}]
    rows = [
        Row(benchmark="swuggy", protocol=p, model=str(i), accuracy=0.7, source="K: x") for i, p in enumerate(stated)
    ]
    monkeypatch.setattr(module, "published", lambda: (rows, {"swuggy": "sWUGGY"}))
    section = leaderboard(runs)[0]
    found = {b.rows[0].model: (b.comparable, b.differs, b.unknown) for b in section.blocks if not b.ours}
    assert found == {
        "0": (True, (), ()),
        "1": (False, ("split",), ()),
        "2": (False, (), ("end", "split")),
        "3": (False, (), ("normalize", "end", "split")),
    }
    assert list(found) == ["0", "2", "3", "1"]


def test_the_published_numbers_are_whole() -> None:
    data = tomllib.loads(files("twistlm.evaluate").joinpath("published.toml").read_text(encoding="utf-8"))
    rows, titles = published()
    assert len(rows) > 150 and {row.benchmark for row in rows} == set(titles)
    for row in rows:
        assert 0.4 < row.accuracy < 1 and row.source.partition(": ")[2], row
        assert set(row.protocol) <= set(module.FIELDS)
    for entry in data["models"]["rows"]:
        assert set(entry.get("memory", {})) <= set(entry["scores"]), entry
        assert entry.get("protocol", "ilm") in data["protocols"], entry
    one = {(r.model, r.benchmark, r.source.partition(":")[0]): r for r in rows}
    assert len(one) == len(rows)
    assert one["TWIST 13B", "topic-storycloze", "SPn"].accuracy == 0.764
    assert one["TWIST 350M", "swuggy", "SLAM"].remark == "recalled, not confirmed; confidence: low"
    assert one["TWIST 7B", "salmon-speaker_consistency", "SAL"].accuracy == 0.71


def test_the_page_and_the_verb(twist, runs: list[Path], tmp_path: Path) -> None:  # noqa: F811
    found = twist("report", *runs, "--out", tmp_path / "board.html", "--json")
    assert found.code == 0, found.err
    assert found.json["benchmarks"] == json.loads(json.dumps(values(leaderboard(runs))))
    html = (tmp_path / "board.html").read_text()
    assert (
        "&lt;a&gt;" in html
        and "/<a>" not in html
        and "src=" not in html
        and "http" not in html.partition("<h2>Sources")[0]
    )
    for words in (
        "Not comparable with ours: not known: length normalisation, whether the end token counts, dev or test.",
        "Benchmarks nobody else published on", "72.69%", "72.7%*", "recalled, not confirmed", "61.3%", "[53.0, 57.0]",
        "Suite swuggy-dev version v1", "arXiv 2502.15814", "Published numbers on benchmarks not measured here",
    ):  # fmt: skip
        assert words in html, words
    own = html.index("Benchmarks nobody else published on")
    assert html.index("mini_swuggy") > own > html.index("sWUGGY, all")
    shown = twist("report", runs[0]).out
    assert "published: 0 by this protocol" in shown and (runs[0] / "leaderboard.html").is_file()
    assert write_page(leaderboard(runs), tmp_path / "again.html").read_text() == html


def test_broken_results_are_named(runs: list[Path]) -> None:
    quick = runs[0].parent / "quick"
    quick.mkdir()
    (quick / "results.json").write_text("{}")
    with pytest.raises(BadInput, match=r"Among other runs name its models, .*quick/warm and .*quick/cold"):
        leaderboard([quick])
    with pytest.raises(BadInput, match="nothing judged, so no table"):
        leaderboard([runs[0].parent])
    (runs[0] / "eval" / "salmon.json").write_text("{")
    broken = json.loads((runs[0] / "eval" / "storycloze.json").read_text())
    del broken["scores"]["mean"][0]["groups"]["all"]["ci"]
    (runs[0] / "eval" / "storycloze.json").write_text(json.dumps(broken))
    with pytest.raises(BadInput, match=r"2 results cannot be read.*salmon.json.*storycloze.json"):
        leaderboard(runs)
