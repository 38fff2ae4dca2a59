"""What a watch raises and warns of, with what to do about it."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence

__all__ = ["NoAttentionSeen", "NoSuchRecord", "UncompiledWarning", "near", "no_match", "nothing_seen"]

FIX = (
    "a Hugging Face model: load it with attn_implementation='sdpa', or with 'regard' after regard.hf.register(); your "
    "own code: call torch.nn.functional.scaled_dot_product_attention or regard.attention"
)


class NoAttentionSeen(RuntimeError):
    """A watch ended, and no call of attention was seen."""


class NoSuchRecord(KeyError):
    """No record of that name, or several."""

    def __str__(self) -> str:
        # That of KeyError is the repr of its argument.
        return str(self.args[0])


class UncompiledWarning(UserWarning):
    """A compiled model runs without its compiled code while it is watched."""


def near(name: str, names: Iterable[str]) -> str:
    """What may have been meant, or what there is, as the end of a sentence."""
    known = list(dict.fromkeys(names))
    found = difflib.get_close_matches(name, known, 3, 0.4)
    if found:
        return f"; did you mean {', '.join(map(repr, found))}?"
    return f"; there is {shortened(known)}" if known else ""


def shortened(names: Sequence[str], most: int = 6) -> str:
    """The first names of many."""
    listed = ", ".join(map(repr, names[:most]))
    return listed if len(names) <= most else f"{listed} and {len(names) - most} more"


def no_match(pattern: str, names: Iterable[str]) -> str:
    """Why a pattern of modules= is refused."""
    return f"watch(modules): {pattern!r} matches no module of the model{near(pattern, names)}"


def nothing_seen(
    *,
    by_hand: Sequence[str],
    elsewhere: Sequence[str],
    patterns: Sequence[str],
    ran: bool,
    called: bool,
    filtered: Sequence[str],
) -> str:
    """Why nothing was seen, as far as can be told, and what to do."""
    if by_hand:
        return f"no attention call seen in {shortened(by_hand)}: these modules compute a softmax by hand; {FIX}"
    if filtered:
        return (
            f"no attention call seen in modules={list(patterns)}; attention was called in {shortened(filtered)}: "
            "name one of these"
        )
    if elsewhere:
        return (
            f"no attention call seen in the model; attention was called in {shortened(elsewhere)}, which is no part of "
            "it: watch the model that runs, or regard.watch() without a model"
        )
    if not ran:
        return (
            "no attention call seen: nothing ran inside the block; call the model inside `with regard.watch(model) as "
            "seen:`, in the thread that opened it"
        )
    if not called:
        return (
            "no attention call seen: the model was not called inside the block, and what ran there called no attention"
            "; call the model inside `with regard.watch(model) as seen:`"
        )
    return f"no attention call seen, and no softmax of attention's shape; {FIX}"
