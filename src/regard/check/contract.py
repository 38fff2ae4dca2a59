"""The conventions an attention may follow: declared by who wrote it, or found by trying."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any, Literal, get_args, get_type_hints

__all__ = ["HAZARDS", "REGARD", "WORDS", "Contract"]

Layout = Literal["BHLD", "BLHD", "NLD", "LD", "BLE", "LBE", "LE"]
Polarity = Literal["allow", "deny", "additive"]
Alignment = Literal["bottom-right", "top-left", "always"]
Combined = Literal["and", "mask-only"]
EmptyRow = Literal["zero", "uniform", "nan", "varies"]
Unread = Literal["ignored", "leaks"]
Grouped = Literal["interleaved", "tiled"]
Window = Literal["own-included", "own-excluded"]
FloatMask = Literal["added", "refused", "misread"]
Float64 = Literal["float64", "float32"]
Dropout = Literal["argument", "training", "none"]


@dataclass(frozen=True)
class Contract:
    """What an attention promises. None = not declared: it is found by trying, and reported.

    What is declared is verified, and a breach fails. What is not declared is found out: any consistent behaviour is
    reported as what it is, a hazardous one (NaN for an empty row) with a warning, and one that fits no convention
    fails.

    >>> from regard.check import Contract
    >>> Contract(mask="allow", causal="bottom-right").declared()
    {'mask': 'allow', 'causal': 'bottom-right'}

    Args:
        layout: order of the axes; B batch, H heads, L length, D width, N = B * H, E = H * D (modules).
        mask: "allow": boolean, True = may attend; "deny": True = masked; "additive": added to the scores, 0 or -inf.
        padding: the same for an argument that masks keys of a sequence, (B, S).
        causal: when L != S, "bottom-right": the last query sees every key; "top-left": query 0 sees key 0 alone;
            "always": causal without being asked (modules).
        combined: a mask and causal together: "and": both hold; "mask-only": the mask replaces causal.
        empty_row: what a query that may read no key gives: "zero", "uniform" (it attends to everything), "nan";
            "varies" is only ever found.
        unread: NaN or inf in a key and value that no query may read: "ignored", or "leaks" into the output.
        grouped: with fewer key/value heads, query head h reads ``h // (H // Hkv)``, "interleaved", or ``h % Hkv``,
            "tiled".
        window: a window of n keys: "own-included": the n latest, the query's own among them; "own-excluded": n before
            the query's own, and its own.
        weights: whether the weights are returned too.
        positional: whether positions are added inside, so that the order of the keys matters.
        float_mask: what a float mask of 0 and -inf does where masks are boolean: "added" to the scores, "refused" with
            an error; "misread" is only ever found.
        float64: what float64 inputs are computed in.
        dropout: "argument": a probability is passed; "training": active in a module's training mode alone.
        heads: the number of query heads of a module, where it cannot be found.

    Raises:
        ValueError: for a word that is none of these.
    """

    layout: Layout | None = None
    mask: Polarity | None = None
    padding: Polarity | None = None
    causal: Alignment | None = None
    combined: Combined | None = None
    empty_row: EmptyRow | None = None
    unread: Unread | None = None
    grouped: Grouped | None = None
    window: Window | None = None
    weights: bool | None = None
    positional: bool | None = None
    float_mask: FloatMask | None = None
    float64: Float64 | None = None
    dropout: Dropout | None = None
    heads: int | None = None

    def __post_init__(self) -> None:
        for name, choices in choices_of(type(self)).items():
            given = getattr(self, name)
            if given is not None and given not in choices:
                raise ValueError(f"Contract({name}=): expected one of {', '.join(map(repr, choices))}, got {given!r}")
        if self.heads is not None and (
            isinstance(self.heads, bool) or not isinstance(self.heads, int) or self.heads < 1
        ):
            raise ValueError(f"Contract(heads=): expected a whole number of at least 1, got {self.heads!r}")

    def declared(self) -> dict[str, Any]:
        """The conventions that are not None."""
        return {field.name: given for field in fields(self) if (given := getattr(self, field.name)) is not None}

    def over(self, found: Contract) -> Contract:
        """This contract, completed by what was found."""
        return replace(found, **self.declared())


def choices_of(kind: type[Contract]) -> dict[str, tuple[Any, ...]]:
    """Field -> the values it may have."""
    hints = get_type_hints(kind)
    literals = {name: [part for part in get_args(hint) if get_args(part)] for name, hint in hints.items()}
    found = {name: get_args(parts[0]) for name, parts in literals.items() if parts}
    return found | {"weights": (True, False), "positional": (True, False)}


REGARD = Contract(
    mask="allow",
    causal="bottom-right",
    combined="and",
    empty_row="zero",
    unread="ignored",
    grouped="interleaved",
    window="own-included",
    positional=False,
    float64="float64",
)
"""What regard's own attention promises."""

# Found where nothing was declared, these are no failure, since careful people have chosen them, but a warning.
HAZARDS: dict[tuple[str, str], str] = {
    ("combined", "mask-only"): "a mask switches causal off: what is padded attends to the future",
    ("empty_row", "nan"): "a query that may read no key gives NaN, and NaN spreads through the whole layer above",
    ("empty_row", "uniform"): "a query that may read no key reads every key, forbidden ones too",
    ("empty_row", "varies"): "what a query that may read no key gives depends on the path that runs",
    ("unread", "leaks"): "NaN or inf in padding reaches the output: 0 * NaN is NaN",
    ("grouped", "tiled"): "grouped heads are tiled, h % Hkv; checkpoints of grouped models expect h // (H // Hkv)",
    ("float_mask", "misread"): "a float mask of 0 and -inf is taken, and does something else than a boolean one",
    ("float64", "float32"): "float64 inputs pass through float32: gradcheck cannot hold",
    ("mask", "additive"): "a boolean mask is not understood as one: pass 0 and -inf to be added to the scores",
}

WORDS: dict[tuple[str, Any], str] = {
    ("mask", "allow"): "True = may attend",
    ("mask", "deny"): "True = masked",
    ("mask", "additive"): "added to the scores",
    ("padding", "allow"): "True = may be read",
    ("padding", "deny"): "True = masked",
    ("padding", "additive"): "added to the scores",
    ("causal", "bottom-right"): "bottom-right: the last query sees every key",
    ("causal", "top-left"): "top-left: query i sees keys 0 to i",
    ("causal", "always"): "always causal",
    ("combined", "and"): "mask and causal: both hold",
    ("combined", "mask-only"): "a mask replaces causal",
    ("empty_row", "zero"): "an empty row gives 0",
    ("empty_row", "uniform"): "an empty row attends to everything",
    ("empty_row", "nan"): "an empty row gives NaN",
    ("empty_row", "varies"): "an empty row gives NaN or not, by path",
    ("unread", "ignored"): "NaN in unread keys is ignored",
    ("unread", "leaks"): "NaN in unread keys leaks",
    ("grouped", "interleaved"): "query head h reads key head h // (H // Hkv)",
    ("grouped", "tiled"): "query head h reads key head h % Hkv",
    ("window", "own-included"): "n keys, the query's own included",
    ("window", "own-excluded"): "n keys before the query's own, and its own",
    ("weights", True): "returned",
    ("weights", False): "not returned",
    ("positional", True): "positions are added inside",
    ("positional", False): "no positions inside",
    ("float_mask", "added"): "float masks are added to the scores",
    ("float_mask", "refused"): "float masks are refused",
    ("float_mask", "misread"): "float masks are misread",
    ("float64", "float64"): "float64 is computed in float64",
    ("float64", "float32"): "float64 passes through float32",
    ("dropout", "argument"): "passed as an argument",
    ("dropout", "training"): "in training mode alone",
    ("dropout", "none"): "none",
}
