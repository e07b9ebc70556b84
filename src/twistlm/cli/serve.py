"""Verbs about models that are served: serve, export."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from twistlm.cli.command import FoundTokenizer, Result, Search, tell, verb
from twistlm.compute.waiting import asleep_where_busy


@verb
def serve(
    models: Annotated[
        list[Path] | None,
        typer.Argument(
            help="Folders of models of the same units, or of a whole quickstart; default: the newest quickstart below "
            "runs/, else the bundled model."
        ),
    ] = None,
    host: Annotated[
        str, typer.Option(help="Address to listen on. Others than loopback ask for a token.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port; 0 takes any that is free.", min=0, max=65_535)] = 8000,
    token: Annotated[
        str | None, typer.Option(help="What callers must know; default: made where one is needed.")
    ] = None,
    certificate: Annotated[Path | None, typer.Option(help="PEM file for https, with --key.")] = None,
    key: Annotated[Path | None, typer.Option(help="PEM file of the certificate's key.")] = None,
    listeners: Annotated[int, typer.Option(help="Continued at once.", min=1, max=64)] = 4,
    waiting: Annotated[int, typer.Option(help="Waiting behind those.", min=0)] = 16,
    seconds: Annotated[float, typer.Option(help="Longest continuation.", min=0.2, max=600)] = 60.0,
    prompt_seconds: Annotated[float, typer.Option(help="Longest recording that is heard.", min=0.2, max=600)] = 30.0,
    rate: Annotated[int, typer.Option(help="Requests a minute of one address; 0: any number.", min=0)] = 120,
    keep: Annotated[Path | None, typer.Option(help="Folder to keep recordings and continuations in.")] = None,
    exact: Annotated[
        bool, typer.Option("--exact", help="Wait for all that could change a sound: the first comes later.")
    ] = False,
    transcripts: Annotated[bool, typer.Option(help="Write down what was said, where the recogniser is cached.")] = True,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, …; default: a GPU where there is one.")] = None,
    tokenizer: FoundTokenizer = None,
    vocoder: Annotated[
        list[str] | None, typer.Option(help="Name or folder of a voice; default: found. Can be repeated.")
    ] = None,
    search: Search = None,
) -> Result:
    """Speak to a model in the browser, or over HTTP and WebSocket."""
    asleep_where_busy()
    from twistlm.jobs.serving import Address, load_served, models_of
    from twistlm.jobs.serving import serve as run
    from twistlm.serve.engine import Room
    from twistlm.serve.limits import Limits

    address = Address(host=host, port=port, certificate=certificate, key=key, token=token)
    address.check()  # before models are loaded
    folders = models_of(models or [])
    tell(f"loading {', '.join(map(str, folders.values()))}")
    served = load_served(
        folders,
        tokenizer=tokenizer,
        vocoders=vocoder or (),
        search=search or (),
        exact=exact,
        transcripts=transcripts,
        device=device,
    )
    run(
        served,
        address,
        limits=Limits(
            seconds=seconds,
            prompt_seconds=prompt_seconds,
            requests_per_minute=rate,
            upload_bytes=max(Limits.upload_bytes, round(96_000 * prompt_seconds)),  # 16-bit samples at 48 kHz
        ),
        # As it is for a minute: three times as long as the sound.
        room=Room(listeners=listeners, waiting=waiting, work_seconds=max(Room.work_seconds, 3 * seconds)),
        kept=keep,
        ready=lambda url: tell(f"open {url} (Ctrl-C ends it)"),
    )
    return Result({"models": {name: str(folder) for name, folder in folders.items()}}, "stopped")


@verb
def export(
    model: Annotated[Path, typer.Argument(help="Folder of a trained model or of its run, or a bundled name.")],
    out: Annotated[Path, typer.Option(help="Folder to write.")],
    for_: Annotated[Literal["vllm", "llama.cpp"], typer.Option("--for", help="The server that is to load it.")],
) -> Result:
    """Write a model for a server of text LMs."""
    from twistlm.lm.folders import load_model
    from twistlm.serve.exporting import export as run

    lm = load_model(model)
    run(lm, out, server=for_)
    facts = {"folder": str(out), "for": for_, "tokens": lm.vocab.size, "unit_spec": lm.spec.fingerprint}
    return Result(facts, f"{out}: for {for_}; {lm.vocab.size} tokens, unit u is token u + {lm.vocab.offset}")
