"""What `regard look`, `regard check` and `regard bench` take; what they do lives in the packages of these names."""

from __future__ import annotations

import platform
from pathlib import Path
from typing import Annotated

import typer

from regard import __version__

__all__ = ["app"]

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Attention for PyTorch that you can read, check and look at.",
)


def _print_version(wanted: bool) -> None:
    if wanted:
        import torch

        print(f"regard {__version__}, torch {torch.__version__}, Python {platform.python_version()}")
        raise typer.Exit


@app.callback()
def regard(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the versions and stop.")
    ] = False,
    traceback: Annotated[bool, typer.Option("--traceback", help="Show where an error came from.")] = False,
) -> None:
    """Attention for PyTorch that you can read, check and look at."""


@app.command()
def look(
    text: Annotated[
        str | None, typer.Argument(metavar="[FILE]", help="A text file, or - for standard input.", show_default=False)
    ] = None,
    string: Annotated[str | None, typer.Option(metavar="TEXT", help="Look at this text, not at a file.")] = None,
    model: Annotated[
        str,
        typer.Option(
            metavar="NAME_OR_PATH",
            help="'demo', a folder made by python -m regard.demo.train, or a Hugging Face model: a folder or a name.",
        ),
    ] = "demo",
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="Where the page and the figures go.")] = Path(
        "regard-look"
    ),
    layer: Annotated[
        int | None, typer.Option(help="The layer to draw, from 0; the most telling one if not given.")
    ] = None,
    head: Annotated[
        int | None, typer.Option(help="The head to draw, from 0; the most telling one if not given.")
    ] = None,
    max_tokens: Annotated[int | None, typer.Option(help="Read at most this many tokens of the text.")] = None,
    no_figures: Annotated[bool, typer.Option("--no-figures", help="Write no PNG figures.")] = False,
    queries: Annotated[
        str | None, typer.Option(metavar="N,N,...", help="Tokens whose rows the page keeps exactly, from 0.")
    ] = None,
    max_mb: Annotated[
        float | None, typer.Option(metavar="MB", help="The most that the page's data may take; 4.9 if not given.")
    ] = None,
    serve: Annotated[
        bool, typer.Option("--serve", help="Also serve the page on this machine, with exact numbers as one zooms.")
    ] = False,
    port: Annotated[int | None, typer.Option(help="Where to serve it; any free port if not given.")] = None,
    open_page: Annotated[bool, typer.Option("--open", help="Open the page in a browser.")] = False,
) -> None:
    """Show what the heads of a trained model attend to in a text.

    The model is the demo's, or any Hugging Face model of text, read from safetensors alone.
    Without FILE and --string it reads a source file of Python's standard library.
    A table of the heads goes to the terminal, a page and figures go to the folder --out.
    With --serve the page is at an address of this machine alone until Ctrl-C.
    """
    from regard.look import command

    command.run(
        text=text,
        string=string,
        model=model,
        out=out,
        layer=layer,
        head=head,
        max_tokens=max_tokens,
        no_figures=no_figures,
        queries=queries,
        max_mb=max_mb,
        serve=serve,
        port=port,
        open=open_page,
    )


@app.command()
def check(
    target: Annotated[
        str | None,
        typer.Argument(
            metavar="[TARGET]",
            help="file.py:name, notebook.ipynb:name or package.module:name; for the exercises a file or a folder.",
            show_default=False,
        ),
    ] = None,
    suite: Annotated[
        str | None,
        typer.Option(help="attention, rotary, positions or exercises; told from the name if not given."),
    ] = None,
    only: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="A property, group or task; repeatable.")
    ] = None,
    declare: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=VALUE", help="A convention to verify: causal=bottom-right; repeatable."),
    ] = None,
    sizes: Annotated[str | None, typer.Option(metavar="NAME=N,...", help="What it can be called with.")] = None,
    device: Annotated[str, typer.Option(help="Where the inputs are made.")] = "cpu",
    dtype: Annotated[str, typer.Option(help="Of the inputs.")] = "float32",
    thorough: Annotated[bool, typer.Option("--thorough", help="Also what takes minutes.")] = False,
    seed: Annotated[int, typer.Option(help="Of the inputs.")] = 0,
    seconds: Annotated[float | None, typer.Option(help="The time limit; of one submission for the exercises.")] = None,
    memory: Annotated[int, typer.Option(metavar="MB", help="What it may use beyond what torch does (Linux).")] = 4000,
    json: Annotated[Path | None, typer.Option(metavar="FILE", help="Also write the report to this file.")] = None,
    csv: Annotated[Path | None, typer.Option(metavar="FILE", help="The gradebook of the exercises.")] = None,
    names: Annotated[bool, typer.Option("--list", help="Print the properties and what must hold, and stop.")] = False,
) -> None:
    """Ask an attention implementation whether it is right. The exit code is 0 if it is, 1 if not.

    It runs in a process of its own, with a limit on time and memory. That holds mistakes, not attacks: no sandbox.
    """
    from regard.check import command

    if names:
        print(command.listing(suite))
        return
    if target is None:
        raise ValueError("check what? Name it: regard check file.py:name")
    code = command.run(
        target,
        suite=suite,
        only=only or (),
        declare=declare or (),
        sizes=sizes,
        device=device,
        dtype=dtype,
        thorough=thorough,
        seed=seed,
        seconds=seconds,
        memory_mb=memory,
        json=json,
        csv=csv,
    )
    raise typer.Exit(code)


@app.command()
def bench(
    only: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="A case or group of cases; repeatable.")
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Few repeats: an impression, not a record.")] = False,
    repeats: Annotated[
        int | None, typer.Option(help="Samples of each subject; by the case's length if not given.")
    ] = None,
    threads: Annotated[int | None, typer.Option(help="Threads torch may use; its own choice if not given.")] = None,
    json: Annotated[Path | None, typer.Option(metavar="FILE", help="Also write the results to this file.")] = None,
    names: Annotated[bool, typer.Option("--list", help="Print the cases and what they are held to, and stop.")] = False,
    scaling: Annotated[
        bool, typer.Option("--scaling", help="Instead: time and memory of a window against the length, to 131,072.")
    ] = False,
    figure: Annotated[
        Path | None, typer.Option(metavar="FILE", help="With --scaling: also draw it, .png, .svg or .pdf.")
    ] = None,
) -> None:
    """Time regard beside torch's own attention, interleaved in one run.

    Every result is compared before it is timed. A bar that is missed is shown as missed, and the exit code is then 1.
    """
    from regard import bench as benchmark

    if names:
        print(benchmark.listing())
        return
    if scaling:
        raise typer.Exit(_scaling(only, repeats, quick=quick, threads=threads, json=json, figure=figure))
    if figure is not None:
        raise ValueError("--figure draws what --scaling measures; give both")
    report = benchmark.run(only=only or (), quick=quick, repeats=repeats, threads=threads, json=json)
    benchmark.show(report)
    raise typer.Exit(0 if report.met else 1)


def _scaling(
    only: list[str] | None,
    repeats: int | None,
    *,
    quick: bool,
    threads: int | None,
    json: Path | None,
    figure: Path | None,
) -> int:
    from regard.bench import scaling

    for name, value in (("--only", only), ("--repeats", repeats)):
        if value:
            raise ValueError(f"{name} is for the cases; --scaling does not take it")
    report = scaling.run(quick=quick, threads=threads, json=json, figure=figure)
    scaling.show(report)
    return 0 if report.met else 1
