"""What `regard look` does: a text through a model, a table, where to look, a page and figures."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from regard.look import terminal
from regard.look.api import page_of
from regard.look.extras import extra
from regard.look.files import obstacle, write_atomically
from regard.look.guide import best
from regard.look.heads import HeadTable
from regard.look.measure import measure
from regard.look.models import Model, load
from regard.look.opened import show
from regard.look.options import asked_queries, check_queries, check_serving, most_bytes, naming_max_mb
from regard.look.over_ranks import Ranks, together
from regard.look.serve import Server
from regard.look.sources import Source, read_source
from regard.look.spoilt import not_numbers
from regard.look.wording import one_line

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from torch import Tensor

    from regard import AttentionWeights

#: A text of more characters is not tokenised to its end only to count its tokens.
COUNTED_CHARACTERS = 2_000_000

#: At most so many heads are printed; the page shows them all.
PRINTED_HEADS = 48

#: What is written beside the page, in the order it is drawn; the names are the same in every run, so that no figure of
#: an old one is left. The last is of models that add positions to their input.
FIGURES = ("head.png", "layer.png", "profiles.png", "positions.png")

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Looked:
    """What a look gave: the scores and the files written."""

    table: HeadTable
    page: Path
    figures: tuple[Path, ...]


@dataclass(frozen=True)
class _Reading:
    """A text as a model takes it."""

    ids: list[int]
    tokens: list[str]
    notes: list[str]


def run(
    *,
    text: str | None = None,
    string: str | None = None,
    model: str = "demo",
    out: str | os.PathLike[str] = "regard-look",
    layer: int | None = None,
    head: int | None = None,
    max_tokens: int | None = None,
    no_figures: bool = False,
    queries: str | None = None,
    max_mb: float | None = None,
    serve: bool = False,
    port: int | None = None,
    open: bool = False,  # noqa: A002 (the option's name)
) -> Looked:
    """Shows what the heads of a model attend to in a text; everything is checked before anything is written.

    Of several processes that torchrun started each measures some layers, and the first writes and prints.

    Args:
        text: the path of a text file, "-" for standard input; without it and string, a file of the standard library.
        string: the text itself.
        model: "demo", a folder that the demo's training wrote, a folder of a Hugging Face model (config.json,
            safetensors and a tokenizer), or the name of one in the local cache or on the hub.
        out: the folder for the page and the figures.
        layer: the layer to draw, from 0; without it the most telling one.
        head: the head to draw, from 0; without it the most telling one.
        max_tokens: read at most so many tokens; without it as many as the model takes.
        no_figures: write the page alone.
        queries: tokens whose rows the page keeps exactly, besides those that it chooses: "4711,12".
        max_mb: the most that the page's data may take, in millions of bytes.
        serve: then serve the page on 127.0.0.1, with exact numbers as its reader zooms, until Ctrl-C.
        port: where to serve it; without it any port that is free.
        open: show the page in a browser; the served one where it is served.

    Returns:
        The scores and the paths.

    Raises:
        ValueError: if the text, the model, the layer, the head, another option or out cannot be used; the message says
            why.
        ImportError: if an extra is missing.
    """
    folder = Path(out)
    with together() as ranks:
        beside = ranks is not None and ranks.rank > 0  # another process writes and prints
        _check_out(folder, ("page.html",) if no_figures else ("page.html", *FIGURES))
        asked = asked_queries(queries)
        most = most_bytes(max_mb)
        check_serving(port, serve=serve)
        _check_input(text, ranks)
        source = read_source(text, string)
        console = extra("rich.console").Console()
        looker = load(model)
        _check_choice("--layer", layer, looker.num_layers)
        _check_choice("--head", head, looker.num_heads)
        reading = _read(source, looker, max_tokens)
        check_queries(asked, len(reading.ids))
        title = f"{one_line(looker.title)} reads {one_line(_short_name(text, string))}"
        with _progress(quiet=beside) as step:
            attended = looker.attend(reading.ids, step("layers of the model"))
            weights = attended.weights
            _check_choice("--layer", layer, len(weights))
            _check_choice("--head", head, _most_heads(weights, layer))
            measured = measure(
                weights,
                tokens=reading.tokens,
                token_ids=reading.ids,
                queries=asked,
                progress=step("scores and maps of the heads"),
                ranks=ranks,
            )
            table = measured.table
            if beside:
                return Looked(table, folder / "page.html", ())
            chosen = _choose(table, layer, head)
            notes = [*reading.notes, *attended.notes]
            with naming_max_mb(max_mb):
                page = page_of(measured, title=title, source=source.name, notes=notes, selected=chosen, max_bytes=most)
            files = {"page.html": page.html.encode("ascii")}
            if not no_figures:
                encoding = looker.positional_encoding(len(reading.ids))
                files |= _figures(weights, reading.tokens, chosen, encoding, step("figures"))
        paths = {name: write_atomically(folder / name, content) for name, content in files.items()}
        stale = [] if no_figures else [folder / name for name in FIGURES if name not in files]
        looked = Looked(table, paths.pop("page.html"), tuple(paths.values()))
        _report(console, source, reading, [*attended.notes, *not_numbers(measured)], looked, stale)
    if serve:
        with page.serve(port=port or 0) as server:
            _wait(console, server, open=open)
    elif open:
        _open(console, looked.page.resolve().as_uri())
    return looked


def _open(console: Any, address: str) -> None:
    """Shows an address in a browser; where there is none, the address is said, and what was made stays."""
    try:
        show(address)
    except RuntimeError as error:
        console.print(f"Note: {error}", markup=False, highlight=False, soft_wrap=True)


def _wait(console: Any, server: Server, *, open: bool) -> None:  # noqa: A002 (the option's name)
    """Says where the page is, and waits for Ctrl-C."""
    for line in ("", f"Serving {server.url}", "It ends with Ctrl-C."):
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    console.file.flush()  # whoever reads a pipe would learn the address at the end
    if open:
        _open(console, server.url)
    server.wait()


def _check_input(text: str | None, ranks: Ranks | None) -> None:
    if text == "-" and ranks is not None:
        raise ValueError(f"text is -, standard input, which {ranks.world} processes cannot share; give a file")


def _check_choice(name: str, value: int | None, count: int | None) -> None:
    if value is not None and count is not None and not 0 <= value < count:
        raise ValueError(f"{name} is {value}, but the model has {count}; expected 0 to {count - 1}")


def _check_out(folder: Path, names: tuple[str, ...]) -> None:
    """All files can be written to the folder, as far as can be known without making it."""
    for name in names:
        if found := obstacle(folder / name):
            raise ValueError(
                f"--out is {one_line(str(folder))}, but {found}; "
                f"expected a folder, old or new, in which {name} may be written"
            )


def _read(source: Source, model: Model, max_tokens: int | None) -> _Reading:
    """The tokens that the model takes, and what was left out in words."""
    if max_tokens is not None and max_tokens < 1:
        raise ValueError(f"--max-tokens is {max_tokens}; expected at least 1")
    limit = model.limit(max_tokens)
    text = source.text[:COUNTED_CHARACTERS]
    encoded = model.encode(text, limit)
    used, notes = len(encoded.ids), []
    if len(text) < len(source.text):
        notes.append(f"first {_tokens(used)} of {len(source.text):,} characters")
    elif used < encoded.total:
        notes.append(f"first {used:,} of {_tokens(encoded.total)}")
    if notes and limit is not None and limit == model.context:
        notes[0] += f" (the model takes {limit:,})"
    return _Reading(encoded.ids, encoded.tokens, notes)


def _tokens(count: int) -> str:
    return f"{count:,} token{'' if count == 1 else 's'}"


def _most_heads(weights: list[AttentionWeights], layer: int | None) -> int:
    """The heads of a layer, or of the layer that has the most."""
    return max(each.shape[-3] for each in (weights if layer is None else [weights[layer]]))


def _choose(table: HeadTable, layer: int | None, head: int | None) -> tuple[int, int]:
    """The head to draw: as asked for, and the most telling one among those that are left."""
    heads = [scores for scores in table.heads if layer in (None, scores.layer) and head in (None, scores.head)]
    first = best(HeadTable(tuple(heads), None, (), ()))
    return first.layer, first.head


def _figures(
    weights: list[AttentionWeights],
    tokens: list[str],
    chosen: tuple[int, int],
    encoding: Tensor | None,
    step: Progress,
) -> dict[str, bytes]:
    """The figures as bytes by the names of their files, FIGURES; the last where there is an encoding to draw."""
    from regard.look import canvas, figures

    layer, head = chosen
    draw: list[Callable[[], Figure]] = [
        lambda: figures.head(weights[layer], which=head, tokens=tokens, title=f"layer {layer}, head {head}"),
        lambda: figures.layer(weights[layer], title=f"layer {layer}"),
        lambda: figures.profiles(weights[layer], title=f"layer {layer}"),
    ]
    if encoding is not None:
        draw.append(lambda: figures.positional_encoding(encoding))
    files = {}
    for number, (file, figure) in enumerate(zip(FIGURES, draw, strict=False), 1):
        files[file] = canvas.rendered(figure(), "png")
        step(number, len(draw))
    return files


def _report(
    console: Any, source: Source, reading: _Reading, notes: list[str], looked: Looked, stale: list[Path]
) -> None:
    """Prints the table, where to look, and what was written."""

    def say(line: str, style: str | None = None) -> None:
        shown = line.encode(console.encoding, "replace").decode(console.encoding)
        # A pipe gets whole lines; a terminal has them broken between words.
        console.print(shown, style=style, markup=False, highlight=False, soft_wrap=not console.is_terminal)

    say(f"Text: {source.name}, {reading.notes[0] if reading.notes else _tokens(len(reading.ids))}")
    for note in notes:
        say(f"Note: {note}")
    console.print(terminal.table(looked.table, limit=PRINTED_HEADS))
    say("Where to look", "bold")
    for sentence in looked.table.where_to_look():
        say(f"- {sentence}")
    say("")
    say("Written", "bold")
    for path in (looked.page, *looked.figures):
        say(f"- {one_line(str(path))}")
    for path in stale:
        if path.exists():
            say(f"Not written: {one_line(str(path))}, which is of an earlier look; this model adds no positions")


@contextmanager
def _progress(*, quiet: bool) -> Iterator[Callable[[str], Progress]]:
    """Bars on standard error while the work takes time; nothing where that is not a terminal."""
    progress, console = extra("rich.progress"), extra("rich.console").Console(stderr=True)
    with progress.Progress(console=console, transient=True, disable=quiet or not console.is_terminal) as bars:

        def step(what: str) -> Progress:
            task = bars.add_task(what, total=None)
            return lambda done, total: bars.update(task, completed=done, total=total)

        yield step


def _short_name(text: str | None, string: str | None) -> str:
    if string is not None:
        return "a string"
    if text is None:
        from regard.look.sources import DEFAULT_MODULE

        return f"{DEFAULT_MODULE}.py"
    return "standard input" if text == "-" else Path(text).name
