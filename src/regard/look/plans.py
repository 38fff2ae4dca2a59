"""The figure of a mask's plan: which rectangles are computed, and in what form."""

from __future__ import annotations

from textwrap import shorten
from typing import TYPE_CHECKING

from regard.look.canvas import SMALL, forbidden_patch, own_or_given, ramp_patch
from regard.look.colours import FORBIDDEN_FILL, FORBIDDEN_LINE, colour

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from regard.masks.planning import Box, MaskPlan

__all__ = ["plan"]

#: Where on the ramp the colour of each form stands.
KINDS = {"full": 0.72, "causal": 0.56, "band": 0.42, "anticausal": 0.30, "partial": 0.16}


def plan(plan: MaskPlan, *, part: int = 0, ax: Axes | None = None) -> Figure:
    """The rectangles that are computed for a mask, coloured by their form; what is hatched is never touched.

    Example:
        >>> from regard import masks
        >>> from regard.look import plans
        >>> figure = plans.plan(masks.window(512).plan(16384))
        >>> [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
        ['causal', 'band', 'not computed']

    Args:
        plan: what :meth:`regard.masks.Mask.plan` returned.
        part: which of its parts, where sequences or heads have maps of their own.
        ax: draw here instead of on a new figure.

    Returns:
        The figure.

    Raises:
        ValueError: if the plan has no such part.
    """
    from matplotlib.collections import PolyCollection
    from matplotlib.patches import Rectangle

    if not 0 <= part < len(plan.parts):
        raise ValueError(
            f"part is {part}, but the plan has {len(plan.parts)} part(s); expected 0 to {len(plan.parts) - 1}"
        )
    at = plan.parts[part].batch, plan.parts[part].heads
    boxes = [box for box in plan.boxes() if (box.batch, box.heads) == at]
    figure, ax = own_or_given(ax, 5.2, 5.2)
    ax.add_patch(
        Rectangle(
            (-0.5, -0.5), plan.key_len, plan.query_len,
            facecolor=FORBIDDEN_FILL[0], edgecolor=FORBIDDEN_LINE[0], hatch="/////", linewidth=0,
        )
    )  # fmt: skip
    drawn = [kind for kind in KINDS if any(box.kind == kind for box in boxes)]
    for kind in drawn:
        fill = "#{:02x}{:02x}{:02x}".format(*colour(KINDS[kind]))
        outlines = [_outline(box) for box in boxes if box.kind == kind]
        # A white edge tells neighbours apart; where they are many it would be all that is seen.
        ax.add_collection(
            PolyCollection(outlines, facecolors=fill, edgecolors="white", linewidths=0.5 if len(boxes) < 200 else 0.0)
        )
    ax.set_xlim(-0.5, plan.key_len - 0.5)
    ax.set_ylim(plan.query_len - 0.5, -0.5)
    ax.set_box_aspect(min(max(plan.query_len / max(1, plan.key_len), 0.25), 2.0))
    ax.set_xlabel("key (read from)", fontsize=SMALL + 1)
    ax.set_ylabel("query (reading)", fontsize=SMALL + 1)
    ax.tick_params(labelsize=SMALL, length=2.5)
    name = shorten(repr(plan.mask), 44, placeholder=" …")
    ax.set_title(f"{name}: {100 * plan.share:.3g}% of the entries", fontsize=SMALL + 2, loc="left", pad=18)
    patches = [*(ramp_patch(KINDS[kind], kind) for kind in drawn), forbidden_patch("not computed")]
    ax.legend(
        handles=patches, loc="lower left", bbox_to_anchor=(0.0, 1.005), ncols=len(patches), frameon=False,
        fontsize=SMALL, borderaxespad=0.0,
    )  # fmt: skip
    return figure


def _outline(box: Box) -> list[tuple[float, float]]:
    """The corners (x, y) of what is computed of a box: all of it, or the triangle that its kernel knows by itself."""
    left, right, top, bottom = (n - 0.5 for n in (box.keys.start, box.keys.stop, box.rows.start, box.rows.stop))
    if box.computed == (box.rows.stop - box.rows.start) * (box.keys.stop - box.keys.start):
        return [(left, top), (right, top), (right, bottom), (left, bottom)]
    reached = min(right, left + bottom - top)
    return [(left, top), (reached, top + reached - left), (reached, bottom), (left, bottom)]
