"""What torch.compile leaves to eager code; imported while a graph is made, as torch.compiler.disable imports dynamo."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from regard.traced_weights import TracedWeights

__all__ = ["ask"]

REASON = (
    "in a compiled graph the weights of regard.attention() answer lse, entropy() without bias and softcap, and "
    "weights @ x; return the weights from the compiled function and ask the rest there, or compile without fullgraph"
)


@torch.compiler.disable(reason=REASON)  # type: ignore[untyped-decorator]
def ask(weights: TracedWeights, name: str, *args: Any, **kwargs: Any) -> Any:
    """``weights.name(*args, **kwargs)``, eagerly."""
    if torch.compiler.is_exporting():
        raise RuntimeError(f"weights.{name} cannot be exported: {REASON}")
    return getattr(weights, name)(*args, **kwargs)
