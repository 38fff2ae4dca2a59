"""How large the largest tensor is that PyTorch's operations return while something runs."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class Largest(TorchDispatchMode):
    """``with Largest() as seen: ...``; ``seen.elements``, ``seen.operation``: the largest storage of any result.

    Storage and not shape: an expanded view of one row is as large as that row.
    """

    def __init__(self) -> None:
        super().__init__()
        self.elements = 0
        self.operation = ""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for t in tree_leaves(result):
            if isinstance(t, Tensor) and t.device.type == "cpu":
                elements = t.untyped_storage().nbytes() // t.element_size()
                if elements > self.elements:
                    self.elements, self.operation = elements, f"{func} -> {tuple(t.shape)} {t.dtype}"
        return result


def largest_of(function: Any) -> Largest:
    torch.manual_seed(0)
    with Largest() as seen:
        function()
    return seen
