"""How a page stands in a notebook: in a frame of its own that holds all of it, so that it is also in what is exported.

The frame may run the page's script and start downloads, and nothing else: it shares no storage, cookies or name with
the notebook, nor with the other pages in it.
"""

from __future__ import annotations

import html
from functools import partial
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from regard import AttentionWeights

__all__ = ["MOST_ENTRIES", "NOTEBOOK_BYTES", "iframe", "weights_html", "with_page"]

#: The most bytes of data of a page in a notebook, where the user does not say: a notebook holds many.
NOTEBOOK_BYTES = 2_000_000

#: Weights of more entries are not computed only because they are displayed.
MOST_ENTRIES = 1 << 30

_HEIGHT = 720


def iframe(document: str, title: str) -> str:
    """A whole page in a frame, as HTML that can stand anywhere in another page.

    Example:
        >>> from regard.look.notebook import iframe
        >>> iframe('<p class="a">1 &lt; 2</p>', "small")[:54]
        '<iframe srcdoc="&lt;p class=&quot;a&quot;&gt;1 &amp;lt'

    Args:
        document: the page.
        title: what a screen reader calls the frame.

    Returns:
        One element.
    """
    return (
        f'<iframe srcdoc="{html.escape(document)}" sandbox="allow-scripts allow-downloads" '
        f'title="{html.escape(title)}" style="width:100%;height:{_HEIGHT}px;border:0"></iframe>'
    )


def weights_html(weights: AttentionWeights, *, batch: int = 0) -> str:
    """What a notebook shows of weights: their page, or in words why it does not, and what would.

    Args:
        weights: of any size.
        batch: which sequence of a batch.

    Returns:
        HTML.
    """
    entries = weights.shape.numel()
    if entries > MOST_ENTRIES:
        return _words(weights, f"{entries:,} entries are not computed only to be displayed: regard.look(weights) does")
    if not entries:
        return _words(weights, "there is nothing in it to look at")
    from regard.look.api import look

    try:
        return look(weights, batch=batch)._repr_html_()
    # To display is not to ask: what stands in the way is said, and the cell goes on.
    except (ImportError, RuntimeError, TypeError, ValueError) as error:
        return _words(weights, f"no page: {error}")


def with_page(figure: Figure, weights: AttentionWeights, *, batch: int = 0) -> Figure:
    """The figure, which a notebook shows as the page of these weights; one on somebody's own axes stays what it is.

    Args:
        figure: a figure of the weights.
        weights: what it shows.
        batch: which sequence of a batch it shows.

    Returns:
        The same figure.
    """
    from regard.look.canvas import Picture

    if isinstance(figure, Picture):
        sequences = weights.shape[0] if len(weights.shape) > 3 else 1
        figure.page = partial(weights_html, weights, batch=batch % sequences)  # figures count from the end, too
    return figure


def _words(weights: AttentionWeights, sentence: str) -> str:
    return f"<pre>{html.escape(repr(weights))}\n{html.escape(sentence)}</pre>"
