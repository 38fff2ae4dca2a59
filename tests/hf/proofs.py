"""One architecture held against its own eager attention, watched as it is and computed by regard."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from tests.hf.tiny_models import NoText, Tiny, build, inputs_for
from tests.hf.truth import Calls, OwnCalls, interface_calls
from torch import Tensor
from transformers import PreTrainedModel

import regard

ATOL = 1e-5
"""Of weights, float32."""
OUTPUT = 1e-4
"""Of outputs, relative to the largest."""


@dataclass
class Finding:
    """What one way gave for one architecture."""

    calls: int = 0
    by_hand: int = 0
    error: float = 0.0
    output_error: float = 0.0
    reason: str = ""
    in_outputs: int = 0
    compared: int = 0
    """Numbers of outputs that were compared."""
    spread: float = 0.0
    """How far the true weights are from uniform: of weights that are, any would be right."""

    def record(self) -> dict[str, Any]:
        """What docs/hf_table.py keeps."""
        kept = dataclasses.asdict(self)
        return {**kept, "reason": " ".join(self.reason.split())[:300]}


SPREAD = 0.05
"""The least distance of some true weight from what uniform weights over the keys of its row would be."""


class Differs(Exception):
    """Weights or an output that are not those of eager attention."""


class Unseen(Exception):
    """No attention was there to see."""


def examine(model_type: str, ways: tuple[str, ...] = ("watch", "register")) -> dict[str, Finding]:
    """Both ways, each with an error of its own; for texts with padding left and right."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what other people's models warn of
        return _examined(model_type, ways)


def _examined(model_type: str, ways: tuple[str, ...]) -> dict[str, Finding]:
    eager = build(model_type, "eager")
    found = {way: Finding() for way in ways}
    models: dict[str, PreTrainedModel] = {}
    for padding in (None, "left", "right"):
        try:
            tiny = inputs_for(model_type, eager, padding)
        except NoText:
            continue
        truth, output = true_calls(eager, tiny)
        tiny = dataclasses.replace(tiny, fields=fields_of(tiny))
        for way, finding in found.items():
            if finding.reason:
                continue
            try:
                if way not in models:
                    models[way] = PREPARE[way](model_type)
                COMPARE[way](dataclasses.replace(tiny, model=models[way]), truth, output, finding)
                conclude(finding)
            except Exception as error:
                where = f"{padding} padding: " if padding else ""
                finding.reason = f"{where}{type(error).__name__}: {error}"
    return found


def conclude(finding: Finding) -> None:
    """A comparison of nothing proves nothing."""
    if not finding.calls:
        raise Unseen("no attention call was compared")
    if not finding.compared:
        raise Differs("no output was compared")
    if finding.spread < SPREAD:
        raise Differs(f"the true weights are uniform but for {finding.spread:.1g}: nothing is shown by them")


def true_calls(eager: PreTrainedModel, tiny: Tiny) -> tuple[Calls, Any]:
    """The weights of every attention, and the model's output."""
    own = OwnCalls(eager)
    with torch.no_grad(), interface_calls(eager) as calls, own:
        output = run(eager, tiny)
    through = {name for name, _ in calls}
    by_hand = {key: value for key, value in own.found.items() if key[0] not in through}
    return {**calls, **by_hand}, output


def run(model: PreTrainedModel, tiny: Tiny, **options: Any) -> Any:
    torch.manual_seed(2)  # some draw noise
    return model(**{**tiny.inputs, **options})


# -- by watching ------------------------------------------------------------------------------------------------------


def as_it_is(model_type: str) -> PreTrainedModel:
    """The model with sdpa, which is what it has if nothing is asked for."""
    return build(model_type, None)


def watched(tiny: Tiny, truth: Calls, output: Any, finding: Finding) -> None:
    """Every call that a model makes of PyTorch's op, by regard.watch; what is computed by hand is counted."""
    with torch.no_grad(), regard.watch(tiny.model) as seen:
        given = run(tiny.model, tiny)
    try:
        compare_outputs(output, given, tiny, finding)
    except Differs as error:
        with torch.no_grad():
            compare_outputs(run(tiny.model, tiny), given, tiny, finding)  # watching changed nothing
        raise Differs(f"transformers' own sdpa and eager attention differ here: {error}") from error
    records = {(record.name, record.call): record for record in seen}
    finding.calls += len(records)
    if not records:
        raise Unseen("no attention call")
    left = dict(truth)
    for key, record in records.items():
        if key not in left:
            raise Differs(f"{record.name} was seen and eager attention has no such call")
        compare_weights(left.pop(key), record.weights.to_dense(), tiny, finding, record.name)
    finding.by_hand += len(left)


# -- by register() ----------------------------------------------------------------------------------------------------


def registered(model_type: str) -> PreTrainedModel:
    """The model with sdpa, changed over to regard as a user would."""
    model = build(model_type, "eager")
    model.set_attn_implementation(regard.hf.register())
    return model


def computed(tiny: Tiny, truth: Calls, output: Any, finding: Finding) -> None:
    """Every call through the interface; and the weights in the outputs, where the model puts them there."""
    with torch.no_grad(), interface_calls(tiny.model) as calls:
        given = run(tiny.model, tiny)
    try:
        compare_outputs(output, given, tiny, finding)
    except Differs as error:
        with torch.no_grad():
            tiny.model.set_attn_implementation("sdpa")
            compare_outputs(run(tiny.model, tiny), given, tiny, finding)  # regard and sdpa agree
        raise Differs(f"transformers' own sdpa and eager attention differ here, regard is as sdpa: {error}") from error
    lazy = {key: weights for key, weights in calls.items() if isinstance(weights, regard.AttentionWeights)}
    finding.calls += len(lazy)
    if not lazy:
        raise Unseen("no attention goes through transformers' AttentionInterface")
    left = dict(truth)
    for key, weights in lazy.items():
        compare_weights(left.pop(key) * shares(weights, tiny), weights.to_dense(), tiny, finding, key[0])
    finding.by_hand += len(left)
    finding.in_outputs += in_outputs(tiny, finding)


def in_outputs(tiny: Tiny, finding: Finding) -> int:
    """How many weights the outputs hold, asked for by ``output_attentions=True``, compared with eager attention's;
    none where a model computes with what it should put there.
    """
    held = 0
    for name, weights in fields_of(tiny).items():
        expected = tiny.fields.get(name, [])
        for want, lazy in zip(expected, weights, strict=False):
            if isinstance(lazy, regard.AttentionWeights):
                want = want * shares(lazy, tiny)
                compare_weights(want, lazy.to_dense(), tiny, finding, f"outputs.{name}")
                held += 1
    return held


def fields_of(tiny: Tiny) -> dict[str, list[Any]]:
    """The fields of the outputs that hold weights, flattened; empty if asking for them is an error of the model's."""
    try:
        with torch.no_grad():
            outputs = run(tiny.model, tiny, output_attentions=True)
    except Exception:
        return {}
    if not isinstance(outputs, Mapping):
        return {}
    fields = {name: value for name, value in outputs.items() if "attentions" in name and value is not None}
    return {name: [each for each in flat(value) if each is not None] for name, value in fields.items()}


def flat(value: Any) -> list[Any]:
    """The leaves of nested tuples."""
    return [each for inner in value for each in flat(inner)] if isinstance(value, tuple | list) else [value]


def shares(weights: regard.AttentionWeights, tiny: Tiny) -> Tensor | float:
    """What the sinks leave to each row, where eager attention shows weights from before."""
    return weights.to_dense().sum(-1, keepdim=True) if tiny.model.config.model_type in SINKS_AFTERWARDS else 1.0


# Their eager attention shows the weights before the sinks have taken their share, and takes it of the output.
SINKS_AFTERWARDS = {"granite_swa", "granitemoe_swa"}
PREPARE = {"watch": as_it_is, "register": registered}
COMPARE = {"watch": watched, "register": computed}


# -- comparing --------------------------------------------------------------------------------------------------------


def compare_weights(true: Any, given: Tensor, tiny: Tiny, finding: Finding, name: str) -> None:
    """The rows of queries that are real, to ``ATOL``."""
    if not isinstance(true, Tensor):
        raise Differs(f"{name}: eager attention gives no weights")
    if true.shape != given.shape:
        if true.numel() != given.numel():
            raise Differs(f"{name}: weights {tuple(given.shape)}, expected {tuple(true.shape)}")
        given = given.reshape(true.shape)
    rows = real_rows(true, tiny)
    if not rows.any():
        raise Differs(f"{name}: no row of a real token")
    if not torch.isfinite(true[rows]).all():
        raise Differs(f"{name}: eager attention itself gives NaN")
    error = float((true - given)[rows].abs().max())
    some = true[rows]
    allowed = (some > 0).sum(-1, keepdim=True).clamp(min=1)
    finding.spread = max(finding.spread, float((some - some.sum(-1, keepdim=True) / allowed)[some > 0].abs().max()))
    finding.error = max(finding.error, error)
    if not error <= ATOL:
        raise Differs(f"{name}: weights differ by {error:.2g}")


def real_rows(weights: Tensor, tiny: Tiny) -> Tensor:
    """Which rows (..., L) of weights (..., L, S) belong to queries that are no padding."""
    rows = torch.ones(weights.shape[:-1], dtype=torch.bool)
    real = real_of(weights.shape[-2], tiny)
    if real is not None and weights.shape[0] == len(real):
        rows &= real.view(len(real), *(1,) * (weights.dim() - 3), -1)  # (B, L) to (B, 1, L)
    return rows


def real_of(length: int, tiny: Tiny) -> Tensor | None:
    """Which of ``length`` rows are no padding, (B, length), if these are the tokens, or they and one appended."""
    if tiny.real is None or length not in (tiny.real.shape[1], tiny.real.shape[1] + 1):
        return None
    return torch.nn.functional.pad(tiny.real, (0, length - tiny.real.shape[1]), value=True)


def compare_outputs(true: Any, given: Any, tiny: Tiny, finding: Finding) -> None:
    """Every floating tensor of the outputs, relative to its largest element."""
    pairs = dict(tensors_of(given))
    for name, expected in tensors_of(true):
        got = pairs.get(name)
        if got is None or got.shape != expected.shape:
            raise Differs(f"outputs.{name}: {None if got is None else tuple(got.shape)}, not {tuple(expected.shape)}")
        keep = torch.isfinite(expected)
        real = real_of(expected.shape[1], tiny) if expected.dim() >= 2 else None
        if real is not None and expected.shape[:2] == real.shape:
            keep &= real.view(*real.shape, *(1,) * (expected.dim() - 2))
        if not keep.any():
            continue
        finding.compared += int(keep.sum())
        error = float((expected - got)[keep].abs().max() / expected[keep].abs().max().clamp(min=1e-3))
        finding.output_error = max(finding.output_error, error)
        if not error <= OUTPUT:
            raise Differs(f"outputs.{name} differ by {error:.2g} of the largest")


def tensors_of(outputs: Any, name: str = "") -> list[tuple[str, Tensor]]:
    """The named floating tensors of outputs, the weights and caches left out."""
    if isinstance(outputs, Tensor):
        return [(name, outputs.float())] if outputs.is_floating_point() else []
    if isinstance(outputs, Mapping):
        items = [(key, value) for key, value in outputs.items() if "attentions" not in key and "past" not in key]
    elif isinstance(outputs, list | tuple):
        items = [(str(i), value) for i, value in enumerate(outputs)]
    else:
        return []
    return [each for key, value in items for each in tensors_of(value, f"{name}.{key}".strip("."))]
