"""From other layers to regard's, and back."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from regard import layer_export, layer_loading
from regard.layer_loading import Parameters, Triple

if TYPE_CHECKING:
    from regard.multi_head import MultiHeadAttention

__all__ = ["Conversions"]


class Conversions(nn.Module):
    """The ways to make a :class:`regard.MultiHeadAttention` of another layer, and another layer of it."""

    @classmethod
    def from_heads(
        cls, heads: Sequence[nn.Module | Triple], out_proj: nn.Linear, *, dropout: float = 0.0
    ) -> MultiHeadAttention:
        """The layer that computes what these heads compute: ``out_proj(Concat(head_1(x), ..., head_H(x)))``.

        >>> import torch, regard
        >>> heads = [regard.SelfAttention(16, 4, 2) for _ in range(3)]
        >>> out_proj = torch.nn.Linear(3 * 2, 5)
        >>> layer = regard.MultiHeadAttention.from_heads(heads, out_proj)
        >>> x = torch.rand(2, 7, 16)
        >>> bool(torch.allclose(layer(x), out_proj(torch.cat([head(x) for head in heads], dim=-1)), atol=1e-6))
        True

        The parameters are copies. Where some heads have a bias and others not, the latter get a bias of 0.

        Args:
            heads: for each head its projections, as (Wq, Wk, Wv) or as an object with these attributes, each a
                :class:`torch.nn.Linear`: Wq and Wk to the width D, Wv to Dv. Wk and Wv may read another width than Wq,
                which is then the layer's d_context.
            out_proj: W^O, from H * Dv to the width of the output.
            dropout: as for the layer.

        Raises:
            TypeError: something that is not a :class:`torch.nn.Linear`.
            ValueError: no heads, heads that differ in their widths, an out_proj that does not take H * Dv, mixed dtypes
                or devices; parameters of which some are trained and others are not, where one parameter takes both.
        """
        return _of(cls, layer_loading.of_heads(heads, out_proj), dropout)

    @classmethod
    def from_torch(cls, layer: nn.MultiheadAttention) -> MultiHeadAttention:
        """The layer that computes what a :class:`torch.nn.MultiheadAttention` computes, with copies of its parameters.

        >>> import torch, regard
        >>> theirs = torch.nn.MultiheadAttention(16, 4, batch_first=True)
        >>> ours = regard.MultiHeadAttention.from_torch(theirs)
        >>> x = torch.rand(2, 7, 16)
        >>> bool(torch.allclose(ours(x), theirs(x, x, x)[0], atol=1e-6))
        True

        What differs in use:

        - x is (B, L, d_in), whatever ``batch_first`` said: an input of a layer with ``batch_first=False`` is given as
          ``x.transpose(0, 1)``. ``theirs(query, key, value)`` is ``ours(query, (key, value))``.
        - True in a mask = may attend: ``attn_mask=m`` is ``mask=~m``, and ``key_padding_mask=m`` is
          ``mask=masks.padding(~m)``. A position that may read no key has weights 0, where torch may give NaN.
        - the weights are those of each head, where torch gives their mean unless asked.

        kdim and vdim become d_context. dropout, dtype, device, requires_grad and training mode are kept.

        Args:
            layer: the layer to copy.

        Raises:
            TypeError: layer is not a :class:`torch.nn.MultiheadAttention`.
            ValueError: it was made with ``add_bias_kv`` or ``add_zero_attn``, which add a key that no mask covers.
        """
        return _of(cls, layer_loading.of_torch(layer), layer.dropout).train(layer.training)

    @classmethod
    def from_huggingface(cls, layer: nn.Module, config: Any = None) -> Any:
        """The layer that computes what an attention layer of a Hugging Face model computes, with copies of its
        parameters: :func:`regard.hf.load`, which names the families that it knows.

        Args:
            layer: the attention module of a model, such as ``model.model.layers[0].self_attn``.
            config: the model's configuration; ``layer.config`` if None.

        Returns:
            A :class:`MultiHeadAttention`, or a :class:`regard.LatentAttention` where that is what the layer is.

        Raises:
            ImportError: transformers is not installed.
            ValueError: a layer of no known family, or with something that regard's layers do not have.
        """
        return importlib.import_module("regard.hf").load(layer, config)

    def to_torch(self: Any) -> nn.MultiheadAttention:
        """The :class:`torch.nn.MultiheadAttention` that computes what this layer computes, with copies of its
        parameters; the way back of :meth:`from_torch`.

        >>> import torch, regard
        >>> ours, x = regard.MultiHeadAttention(16, 4), torch.rand(2, 7, 16)
        >>> theirs = ours.to_torch()
        >>> bool(torch.allclose(theirs(x, x, x, need_weights=False)[0], ours(x), atol=1e-6))
        True

        It has ``batch_first=True``; dropout, dtype, device, requires_grad and training mode are kept.

        Raises:
            ValueError: naming each thing that this layer has and :class:`torch.nn.MultiheadAttention` does not.
        """
        return layer_export.to_torch(self)


def _of(cls: Any, given: Parameters, dropout: float) -> MultiHeadAttention:
    wq, wk, wv = given.weights
    layer: MultiHeadAttention = cls(
        wq.shape[1],
        given.num_heads,
        d_k=wq.shape[0],
        d_v=wv.shape[0],
        d_out=given.out_weight.shape[0],
        d_context=(wk.shape[1], wv.shape[1]) if given.own_context else None,
        bias={"q", "k", "v"} if given.biases is not None else False,
        dropout=dropout,
        device="meta",  # neither memory nor random numbers for parameters that are replaced
    )
    groups = [(0, 1, 2)] if layer.d_context is None else [(0,), (1,), (2,)]
    for projection, group in zip(layer._projections(), groups, strict=True):
        projection.weight = _joined([given.weights[i] for i in group], "weight", given.names)
        if given.biases is not None:
            projection.bias = _joined([given.biases[i] for i in group], "bias", given.names)
    layer.out_proj.weight = _joined([given.out_weight], "weight", given.names)
    out_bias = None if given.out_bias is None else _joined([given.out_bias], "bias", given.names)
    layer.out_proj.register_parameter("bias", out_bias)
    return layer


def _joined(parts: Sequence[Tensor], kind: str, names: str) -> nn.Parameter:
    """Copies of the rows of several tensors as one parameter, trained where they are."""
    trained = {part.requires_grad for part in parts}
    if len(trained) > 1:
        raise ValueError(
            f"{names} must agree in requires_grad of their {kind}, got some that are trained and others that are not; "
            f"in_proj has one {kind} for all of them: freeze or train all, and then this one"
        )
    return nn.Parameter(torch.cat([part.detach() for part in parts]), trained.pop())
