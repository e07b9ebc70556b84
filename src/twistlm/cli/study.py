"""Verbs about the whole: quickstart, doctor, report, show, study."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from twistlm.cli.command import Recipe, Result, Search, Set, group, tell, verb

SetOfSide = Annotated[
    list[str] | None, typer.Option("--set", help="Change one setting: warm.lr=1e-3, n_resynth=10. Can be repeated.")
]
SetOfGrid = Annotated[
    list[str] | None, typer.Option("--set", help="Change one setting: train.updates=60, seeds=[0,1]. Can be repeated.")
]
Grid = Annotated[str, typer.Argument(help="Grid: full, two-cores, or a TOML file with what differs from one.")]
grid_verb = group("study", help="Warm against cold over sizes and amounts of data, with ablations.")


@verb
def quickstart(
    speech: Annotated[
        Path | None, typer.Option(help="Folder with your own sound files; default: the bundled sample.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder for everything the run makes.")] = None,
    recipe: Recipe = "quickstart",
    set_: SetOfSide = None,
    progress: bool = True,
) -> Result:
    """The whole loop, from speech to a report."""
    from twistlm import recipes
    from twistlm.config import override
    from twistlm.errors import BadInput, offenders

    given = {"speech": speech, "out": out}
    named = {change.partition("=")[0].strip() for change in set_ or []}
    if twice := [name for name, path in given.items() if path is not None and name in named]:
        raise BadInput(f"given twice, by an option and by --set: {offenders(twice)}. Leave one of them out.")
    config = override(recipes.load(recipe), set_ or [])
    config = dataclasses.replace(config, **{name: str(path) for name, path in given.items() if path is not None})

    from twistlm.study.quickstart import quickstart as run

    results = run(config, progress=progress)
    report = Path(config.out) / "report.html"
    return Result(results, f"{_table(results)}\nreport: {report}")


@verb
def doctor() -> Result:
    """Check the machine and the installation: what is there, what is amiss, what is slow and why."""
    from twistlm.jobs.doctor import diagnose

    facts = diagnose()
    told = _lines({name: value for name, value in facts.items() if name not in ("slow", "problems")})
    lines = [told, *(f"slow: {reason}" for reason in facts["slow"]), *(f"problem: {p}" for p in facts["problems"])]
    return Result(facts, "\n".join([*lines, *([] if facts["problems"] else ["all is well"])]))


@verb
def report(
    runs: Annotated[list[Path], typer.Argument(help="Folder of a quickstart run, or of models judged by twist eval.")],
    out: Annotated[
        Path | None, typer.Option(help="HTML file of the leaderboard; default: leaderboard.html in the first folder.")
    ] = None,
    search: Search = None,
) -> Result:
    """Write a quickstart's report again, or set what twist eval measured beside published numbers."""
    if len(runs) == 1 and (runs[0] / "results.json").is_file():
        from twistlm.errors import BadInput

        if out is not None:
            raise BadInput(f"{runs[0]} is a quickstart, whose report is report.html in it: leave --out out.")
        return _report(runs[0], search or [])

    from twistlm.evaluate.leaderboard import leaderboard
    from twistlm.jobs.parts import tokenizers_of
    from twistlm.lm.folders import is_bundled, run_folder
    from twistlm.pages.leaderboard import text, values, write_page

    runs = [run_folder(run) if is_bundled(run) else run for run in runs]  # where twist eval put it
    sections = leaderboard(runs)
    rows = (row for section in sections for block in section.blocks for row in block.rows)
    units = tokenizers_of((row.facts["unit_spec"] for row in rows if row.facts), search=search or ())
    path = write_page(sections, out or runs[0] / "leaderboard.html")
    facts = {"leaderboard": str(path), "tokenizers": units, "benchmarks": values(sections)}
    lines = [text(sections), *(f"units {spec}: {name or 'no tokenizer of them here'}" for spec, name in units.items())]
    return Result(facts, "\n".join([*lines, f"leaderboard: {path}"]))


def _report(run: Path, search: list[Path]) -> Result:
    from twistlm.files.jsonl import read_json
    from twistlm.jobs.inspecting import fitting
    from twistlm.pages.report import SHAPE, write_report
    from twistlm.types import UnitSpec

    source = run / "results.json"
    results = read_json(source, "the results of a quickstart", shape=SHAPE, nan=True, fix="Run twist quickstart again.")
    path = write_report(results, run / "report.html")
    parts = fitting(UnitSpec.from_dict(results["unit_spec"]), run / "warm", search=search)
    told = "\n".join(f"{kind}: {part}" for kind, part in parts.items())
    return Result({"report": str(path), **parts}, f"{_table(results)}\n{told}\nreport: {path}")


@verb
def show(
    path: Annotated[
        Path, typer.Argument(help="Sound file, units, tokenizer, vocoder, model or run; or a bundled name.")
    ],
    search: Search = None,
) -> Result:
    """Say what a file or folder is, and which tokenizer and vocoder fit it."""
    from twistlm.jobs.inspecting import describe

    facts = describe(path, search=search or ())
    return Result(facts, _lines(facts))


@grid_verb
def plan(grid: Grid, set_: SetOfGrid = None, progress: bool = True) -> Result:
    """Say which runs a grid holds and how long they take here, by a short trial."""
    from twistlm.study.grid.planning import plan as run

    planned = run(_grid(grid, set_), progress=progress)
    rows = [
        f"{part['what']:48} {part['tuning']:3} tuning {part['reported']:3} reported {part['finished']:3} finished "
        f"{part['hours_left']:7.2f} h left"
        for part in planned["parts"]
    ]
    rows += [f"{n} layers: {s['update']:.2f} s an update" for n, s in planned["seconds"].items()]
    total = (
        f"{planned['finished']} of {planned['wanted']} runs finished; {planned['hours_left']:.2f} hours of one process"
    )
    return Result(planned, "\n".join([*rows, f"{total} left, loading aside"]))


@grid_verb
def run(grid: Grid, set_: SetOfGrid = None, progress: bool = True) -> Result:
    """Make the runs of a grid that are not there yet; several processes may share the work."""
    from twistlm.study.grid.report import report as write
    from twistlm.study.grid.running import run as make

    config = _grid(grid, set_)
    make(config, tell=tell, progress=progress)
    write(config.out)
    return Result({"study": config.out}, f"all runs are finished\nreport: {Path(config.out) / 'report.html'}")


@grid_verb
def report_(study: Annotated[Path, typer.Argument(help="Folder of a study, finished or not.")]) -> Result:
    """Write the tables and plots of what is finished."""
    from twistlm.pages.grid_tables import markdown
    from twistlm.study.grid.report import report as write

    results = write(study)
    return Result(results, f"{markdown(results)}report: {study / 'report.html'}")


@grid_verb
def steady(
    units: Annotated[Path, typer.Argument(help="Folder of units with something held out.")],
    out: Annotated[Path, typer.Option(help="Folder of the finished runs; run again to go on.")],
    recipe: Recipe = "quickstart",
    seeds: Annotated[int, typer.Option(min=1, help="How many seeds, from 0.")] = 10,
    numerics: Annotated[
        str, typer.Option(help="Ways of rounding, with commas: bf16, float32, avx2, avx512, float32-2-threads …")
    ] = "bf16,float32,avx2",
    arms: Annotated[
        str,
        typer.Option(
            help="What is trained, with commas: warm, cold, and, at one setting other than the recipe's, tied_warm, "
            "tied_cold, paper_warm, mean_rows, lora_8 … (an unknown one is answered with all there are)."
        ),
    ] = "warm,cold",
    report_only: Annotated[bool, typer.Option("--report", help="Train nothing: say what is finished.")] = False,
) -> Result:
    """Train a recipe over seeds and ways of rounding; say how often warm wins, and what decides."""
    from twistlm import recipes
    from twistlm.errors import BadInput
    from twistlm.study import steady as made
    from twistlm.study import steady_table as table
    from twistlm.study.grid import rows

    names = arms.split(",")
    made.require_known(names)
    if not report_only:
        config = recipes.load_training(recipe)
        how: dict[str, Any] = {"seeds": range(seeds), "numerics": numerics.split(","), "arms": names}
        made.steady(recipe, config, units, out, **how, tell=tell)
    elif not (out / rows.NAME).is_file():
        raise BadInput(
            f"{out} holds no runs of twist study steady: name the folder that --out had, or leave --report out."
        )
    if names == ["warm"]:
        finished = len(rows.by_cell(out, "arm", "seed", "numerics"))
        return Result({"comparisons": []}, f"{finished} runs are finished in {out}; name an arm to hold warm against.")
    told = {name: table.report(out, against=name) for name in names if name != "warm"}
    found = [one for one in told.values() if one is not None]
    texts = [
        f"{out} holds no pair of warm and {name} (one seed, one way of rounding) yet."
        if one is None
        else table.text(one)
        for name, one in told.items()
    ]
    if len(found) > 1:
        texts.append(table.overview(found))
    return Result({"comparisons": found}, "\n\n".join(texts))


@grid_verb
def long(
    units: Annotated[Path, typer.Argument(help="Folder of units with something held out.")],
    out: Annotated[Path, typer.Option(help="Folder of the finished runs; run again to go on.")],
    budgets: Annotated[
        str,
        typer.Option(help="Rising numbers of updates, with commas; each is a run whose rate falls in its last fifth."),
    ] = "40,128,256,512,1024,2048",
    recipe: Recipe = "quickstart",
    seeds: Annotated[str, typer.Option(help="Seeds, with commas.")] = "0,1,2",
    sides: Annotated[str, typer.Option(help="warm, cold, or both with a comma.")] = "warm,cold",
    layers: Annotated[int | None, typer.Option(help="Of both sides, only the first so many layers.")] = None,
    suites: Annotated[
        str, typer.Option(help="Suites that every finished model is judged on, with commas; empty: none.")
    ] = "mini-swuggy,mini-sblimp,mini-storycloze,mini-topic-storycloze",
    set_: Set = None,
    report_only: Annotated[bool, typer.Option("--report", help="Train nothing: say what is finished.")] = False,
    search: Search = None,
    progress: bool = True,
) -> Result:
    """Train warm and cold longer and longer: does the lead last?"""
    from twistlm import recipes
    from twistlm.errors import BadInput, offenders
    from twistlm.study import long as made

    if not report_only:
        from twistlm.config import override
        from twistlm.jobs.judging import hear

        ours = {
            "updates": "--budgets",
            "seed": "--seeds",
            "schedule": "no option: it is wsd, so that budgets share runs",
        }
        if lost := [name for name in ours if any(change.partition("=")[0].strip() == name for change in set_ or [])]:
            of = "; ".join(f"{name}: {ours[name]}" for name in lost)
            raise BadInput(f"--set: what a long study has of its own is not set so ({of}).")
        if odd := sorted(set(sides.split(",")) - {"warm", "cold"}):
            raise BadInput(f"--sides are warm, cold or both with a comma, not {offenders(odd)}.")
        how: dict[str, Any] = {"sides": sides.split(","), "budgets": _numbers(budgets, "--budgets")}
        how |= {"seeds": _numbers(seeds, "--seeds"), "layers": layers, "progress": progress}
        config = recipes.load_training(recipe)
        changed = {side: override(getattr(config, side), set_ or []) for side in ("warm", "cold")}
        names = [name for name in suites.split(",") if name]
        spoken = hear(names, units, out / "suites", search=search or (), progress=progress)
        made.long(dataclasses.replace(config, **changed), units, out, **how, spoken=spoken, tell=tell)
    found = made.report(out)
    return Result(found, made.text(found))


def _numbers(text: str, option: str) -> list[int]:
    from twistlm.errors import BadInput

    try:
        return [int(n) for n in text.split(",")]
    except ValueError:
        raise BadInput(f"{option} {text!r} is not whole numbers with commas, as 0,1,2.") from None


def _grid(name: str, changes: list[str] | None) -> Any:
    from twistlm import recipes
    from twistlm.config import override

    return override(recipes.load_grid(name), changes or [])


def _table(results: Mapping[str, Any]) -> str:
    from rich.console import Console

    from twistlm.pages.report import print_table

    console = Console(markup=False, force_terminal=False)  # names are not markup; what is printed holds no controls
    with console.capture() as captured:
        print_table(results, console=console)
    return captured.get().rstrip()


def _lines(facts: Mapping[str, Any], prefix: str = "") -> str:
    """One `name  value` line for each fact; those of a group are named group.name."""
    lines = []
    for name, value in facts.items():
        if isinstance(value, Mapping):
            lines += [_lines(value, f"{prefix}{name}.")] if value else []
        elif isinstance(value, list):
            lines.append(f"{prefix + name:32} {', '.join(map(str, value)) or 'none'}")
        else:
            lines.append(f"{prefix + name:32} {f'{value:.4g}' if isinstance(value, float) else value}")
    return "\n".join(lines)
