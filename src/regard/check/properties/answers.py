"""What comes back, and what is left behind: shapes, dtypes, inputs, printing, state, and the same answer twice."""

from __future__ import annotations

from dataclasses import replace

import torch

from regard.check.probe import leaves, pattern
from regard.check.registry import property_
from regard.check.request import Sizes
from regard.check.subject import Subject
from regard.check.violation import Violation, expect, expect_near, expect_same

__all__ = [
    "check_earlier_calls_leave_no_trace",
    "check_global_state_is_kept",
    "check_inputs_are_unchanged",
    "check_output_shape_and_dtype",
    "check_prints_nothing",
    "check_requires_grad_changes_nothing",
    "check_runs_twice_equal",
]

GROUP = "Answers"


@property_(group=GROUP, essential=True)
def check_output_shape_and_dtype(subject: Subject, at: Sizes, seed: int) -> None:
    """The output has the shape of the query, with the value's width, and the query's dtype.

    Catches: outputs that come back in float32 from half precision inputs, and heads that stay in the wrong place,
    which broadcasting then hides.
    """
    shapes = [at]
    if subject.supports("lengths"):
        other = replace(at, query_len=max(1, at.query_len - 2), key_len=at.key_len + 1)
        shapes += [other] if subject.supports_sizes(other) else []
    for sizes in shapes:
        request = subject.make(sizes, seed)
        output = subject.answers(request).output
        # Arrays are promoted to float64 by a plain np.sqrt(8): no precision is lost.
        promoted = getattr(subject, "arrays", False) and output.dtype == torch.float64
        expect(
            promoted or output.dtype == request.query.dtype,
            f"output is {output.dtype} for inputs of {request.query.dtype}",
            request=request, got=str(output.dtype), wanted=str(request.query.dtype),
        )  # fmt: skip
    for name in ("float16", "bfloat16", "float64"):
        if subject.supports(name) and not getattr(subject, "arrays", False):
            request = subject.make(at, seed, dtype=getattr(torch, name))
            got = subject.answers(request).output.dtype
            wanted = getattr(torch, name)
            expect(got == wanted, f"output is {got} for inputs of {wanted}", request=request, got=str(got), wanted=name)


@property_(group=GROUP)
def check_inputs_are_unchanged(subject: Subject, at: Sizes, seed: int) -> None:
    """Query, key and value hold the same bits after the call as before.

    Catches: scaling the query in place, which corrupts it for whoever uses it next, a second head or a residual sum.
    """
    subject.findings.written.clear()
    request = subject.make(at, seed)
    subject.answers(request)
    if subject.supports("uniform"):
        mask = torch.ones(
            1, 1, request.query_len, request.key_len, dtype=torch.bool, device=request.query.device
        ).tril()
        subject.answers(request.but(mask=mask))
    written = subject.findings.written
    expect(not written, f"writes to its {' and '.join(written)}", request=request)


@property_(group=GROUP)
def check_prints_nothing(subject: Subject, at: Sizes, seed: int) -> None:
    """Nothing is written to stdout or stderr.

    Catches: a print left over from debugging, once a layer and step.
    """
    request = subject.make(at, seed)
    subject.answers(request)
    text = subject.findings.printed
    expect(not text, f"prints {' '.join(text.split())[:80]!r}", request=request)


@property_(group=GROUP)
def check_global_state_is_kept(subject: Subject, at: Sizes, seed: int) -> None:
    """Default dtype and device, grad mode, threads and the seed of the global generator are as before the call.

    Catches: torch.manual_seed inside a forward, which repeats the same dropout for ever, and set_default_dtype, which
    changes everybody's code.
    """
    request = subject.make(at, seed)
    subject.answers(request)
    expect(not subject.findings.state, "; ".join(subject.findings.state), request=request)


@property_(group=GROUP, rows=(25,), essential=True)
def check_runs_twice_equal(subject: Subject, at: Sizes, seed: int) -> None:
    """The same input gives the same bits, whatever the state of the random generators.

    Catches: memory that was never initialised (flashinfer #4299) and dropout that nobody asked for.
    """
    for sizes in (at, replace(at, batch=at.batch + 1)) if subject.supports("batch") else (at,):
        request = subject.make(sizes, seed)
        first = subject.answers(request).output
        for _ in range(3):
            expect_same("the same call again", subject.answers(request).output, first, request=request)


@property_(group=GROUP, rows=(31,))
def check_earlier_calls_leave_no_trace(subject: Subject, at: Sizes, seed: int) -> None:
    """What was asked before changes nothing: other numbers, sizes, masks and gradients in between.

    Catches: a cache whose key lacks a parameter (mlx PR #561), a mask kept from the call before, buffers that grow.
    """
    # Sizes that nothing else asks for: what was remembered before this property does not hide what is remembered in it.
    at = replace(at, batch=at.batch + 2) if subject.supports("batch") else at
    request = subject.make(at, seed)
    first = subject.answers(request).output.clone()
    other = subject.make(at, seed + 1)
    if torch.equal(subject.answers(other).output, first):
        raise Violation("other numbers of the same sizes give the answer of the call before", request=other)
    others = [other, request]
    if subject.supports("lengths"):
        others.append(subject.make(replace(at, key_len=at.key_len + 3), seed + 2))
    if subject.supports("batch"):
        others.append(subject.make(replace(at, batch=at.batch + 1), seed + 3))
    if subject.supports("uniform"):
        masked = subject.make(at, seed + 4)
        others.append(masked.but(mask=pattern(subject, "uniform", masked, seed + 77)))
    if subject.supports("causal option"):
        others.append(subject.make(at, seed + 5).but(causal=True))
    for between in others:
        subject.answers(between)
        expect_same("the same call after another one", subject.answers(request).output, first, request=request)
    second = subject.answers(other).output.clone()  # right after a call of the same sizes
    for flush in others[2:]:
        subject.answers(flush)
    expect_same("a call after one of the same sizes", second, subject.answers(other).output, request=other)
    if subject.supports("gradients"):
        asked, tensors = leaves(request)
        torch.autograd.grad(subject.answers(asked).output.sum(), list(tensors.values()), allow_unused=True)
        expect_same("the same call after a backward pass", subject.answers(request).output, first, request=request)


@property_(group=GROUP, needs=("gradients",))
def check_requires_grad_changes_nothing(subject: Subject, at: Sizes, seed: int) -> None:
    """Inputs that require gradients give the same output, up to rounding.

    Catches: a training path with rules of its own: the mask of the inference path is not the mask of the other.
    """
    plain = subject.make(at, seed)
    requests = [plain]
    if subject.supports("uniform"):
        lower = torch.ones(1, 1, at.query_len, at.key_len, dtype=torch.bool, device=subject.device).tril()
        requests.append(plain.but(mask=lower))
    if subject.supports("causal option"):
        requests.append(plain.but(causal=True))
    for request in requests:
        with torch.no_grad():
            want = subject.answers(request).output
        got = subject.answers(request.map(lambda t: t.detach().clone().requires_grad_())).output
        if got.shape != want.shape:
            raise Violation(f"shape {tuple(got.shape)} with gradients, {tuple(want.shape)} without", request=request)
        # Another kernel may run: sums of a few rounded terms in another order.
        within = 32 * torch.finfo(want.dtype).eps * want.abs().max().item()
        expect_near("output with gradients, against without", got, want, within, request=request)
