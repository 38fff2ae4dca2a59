"""What `regard look` and `regard bench` take; what they do lives in `regard.look` and `regard.bench`."""

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
    model: Annotated[str, typer.Option(help="'demo', or a folder made by python -m regard.demo.train.")] = "demo",
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
    open_page: Annotated[bool, typer.Option("--open", help="Open the page in a browser.")] = False,
) -> None:
    """Show what the heads of a trained model attend to in a text.

    Without FILE and --string it reads a source file of Python's standard library.
    A table of the heads goes to the terminal, a page and figures go to the folder --out.
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
        open=open_page,
    )


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
) -> None:
    """Time regard beside torch's own attention, interleaved in one run.

    Every result is compared before it is timed. A bar that is missed is shown as missed, and the exit code is then 1.
    """
    from regard import bench as benchmark

    if names:
        print(benchmark.listing())
        return
    report = benchmark.run(only=only or (), quick=quick, repeats=repeats, threads=threads, json=json)
    benchmark.show(report)
    raise typer.Exit(0 if report.met else 1)
