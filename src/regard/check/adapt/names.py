"""What people call the arguments of an attention: role -> names, in small letters, without underscores at the ends."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection
from typing import Any

__all__ = ["CONSTRUCTOR", "ROLES", "Parameters", "role_of"]

ROLES: dict[str, tuple[str, ...]] = {
    "query": ("q", "query", "queries", "query_states", "query_layer", "q_input", "xq", "query_tensor"),
    "key": ("k", "key", "keys", "key_states", "key_layer", "k_input", "xk", "key_tensor"),
    "value": ("v", "value", "values", "value_states", "value_layer", "v_input", "xv", "value_tensor"),
    "x": (
        "x", "hidden_states", "hidden_state", "inputs", "input", "src", "embeddings", "embedding", "inp", "tokens",
        "sequence", "input_tensor", "embeds", "seq",
    ),
    "context": ("context", "memory", "encoder_hidden_states", "kv", "y", "cross", "ctx", "encoder_output"),
    "module": ("module",),
    "mask": (
        "mask", "attn_mask", "attention_mask", "m", "masks", "src_mask", "att_mask", "causal_mask", "attn_masks", "msk",
    ),
    "padding": ("key_padding_mask", "padding_mask", "pad_mask", "src_key_padding_mask", "key_mask", "kv_mask"),
    "context_padding": ("context_mask",),
    "block_mask": ("block_mask",),
    "causal": ("is_causal", "causal", "use_causal_mask", "use_causal", "causal_masking"),
    "window": ("window", "window_size", "sliding_window", "local_window"),
    "scale": ("scale", "scaling", "softmax_scale", "sm_scale", "attn_scale"),
    "bias": ("bias", "attn_bias", "position_bias", "attention_bias", "rel_pos_bias"),
    "softcap": ("softcap", "logit_cap", "logits_soft_cap", "attn_logit_softcapping"),
    "dropout": ("dropout", "dropout_p", "attn_dropout", "dropout_rate", "p_dropout", "attention_dropout", "p"),
    "weights": (
        "need_weights", "return_weights", "return_attention", "output_attentions", "return_attn", "return_attn_weights",
        "return_attention_scores", "return_scores", "return_att",
    ),
    "average": ("average_attn_weights",),
    "grouped": ("enable_gqa",),
    "training": ("training", "train"),
    "num_heads": ("num_heads", "n_heads", "heads", "nhead", "n_head", "h", "nheads"),
}  # fmt: skip

CONSTRUCTOR: dict[str, tuple[str, ...]] = {
    "width": (
        "d_in", "d_model", "embed_dim", "dim", "hidden_size", "n_embd", "d", "emb_dim", "embedding_dim", "emb_size",
        "embed_size", "model_dim", "in_dim", "input_dim", "in_features", "features", "hidden_dim", "d_embed", "dmodel",
        "n_embed", "width", "channels", "query_dim", "d_input",
    ),
    "heads": ("num_heads", "n_heads", "heads", "nhead", "n_head", "h", "num_attention_heads", "nheads", "head"),
    "d_k": ("d_k", "dk", "d_key", "key_dim", "qk_dim", "d_q", "d_qk", "dim_k"),
    "d_v": ("d_v", "dv", "d_value", "value_dim", "dim_v"),
    "d_out": ("d_out", "out_dim", "output_dim", "out_features", "dim_out", "d_output"),
    "head_width": ("dim_head", "head_dim", "d_head", "head_size", "head_width", "dim_per_head"),
    "dropout": ("dropout", "dropout_p", "attn_dropout", "attn_pdrop", "p", "dropout_rate", "resid_pdrop", "drop"),
    "length": (
        "context_length", "block_size", "max_len", "max_length", "seq_len", "max_seq_len", "context_size", "n_ctx",
        "sequence_length", "max_position_embeddings", "max_seq_length",
    ),
    "flag": ("bias", "qkv_bias", "use_bias", "attn_bias", "attention_bias"),
    "causal": ("causal", "is_causal"),
    "batch_first": ("batch_first",),
    "config": ("config", "cfg", "args", "configuration"),
}  # fmt: skip

_EMPTY = inspect.Parameter.empty


def role_of(name: str, roles: dict[str, tuple[str, ...]] = ROLES) -> str | None:
    """The role of an argument called so, or None.

    >>> role_of("attn_mask"), role_of("Q"), role_of("temperature")
    ('mask', 'query', None)
    """
    plain = name.lower().strip("_")
    return next((role for role, names in roles.items() if plain in names), None)


class Parameters:
    """The parameters of a callable, by role.

    Args:
        function: what is called.
        known: names in their order where the callable tells none (functions written in C).
        roles: the table of names.
        bound: names that a partial has set, and that are therefore not ours to set.

    Attributes:
        by_role: role -> the first parameter with it.
        masks: every argument that takes a mask, in order.
        unknown: parameters that must be given and have no role.
        left: parameters without a role that have a default, and are left at it.
        positional: names of those that may be given by position, in order.
        nameless: those that may be given by position alone.
        takes_any: whether it takes ``**kwargs``.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        known: str | None = None,
        roles: dict[str, tuple[str, ...]] = ROLES,
        *,
        bound: Collection[str] = (),
    ) -> None:
        if known is not None:
            self.signature = inspect.signature(signature_from(known))
        else:
            self.signature = inspect.signature(function)
        self.by_role: dict[str, inspect.Parameter] = {}
        self.masks: list[str] = []
        self.unknown: list[str] = []
        self.left: list[str] = []
        self.positional: list[str] = []
        self.nameless: list[str] = []
        self.takes_any = False
        for parameter in self.signature.parameters.values():
            if parameter.name in bound:
                continue
            if parameter.kind is parameter.VAR_KEYWORD:
                self.takes_any = True
            elif parameter.kind is parameter.VAR_POSITIONAL:
                continue
            else:
                if parameter.kind is not parameter.KEYWORD_ONLY:
                    self.positional.append(parameter.name)
                if parameter.kind is parameter.POSITIONAL_ONLY:
                    self.nameless.append(parameter.name)
                role = role_of(parameter.name, roles)
                if role in ("mask", "block_mask"):
                    self.masks.append(parameter.name)
                if role is not None and role not in self.by_role:
                    self.by_role[role] = parameter
                elif role is None and parameter.default is _EMPTY:
                    self.unknown.append(parameter.name)
                elif role is None:
                    self.left.append(parameter.name)

    def __contains__(self, role: str) -> bool:
        return role in self.by_role

    def name(self, role: str) -> str:
        """What the callable calls it."""
        return self.by_role[role].name

    def required(self, role: str) -> bool:
        """Whether it has no default."""
        return self.by_role[role].default is _EMPTY


def signature_from(text: str) -> Callable[..., Any]:
    """A function with the parameters ``a, b, c=None`` of this text."""
    parameters = [
        inspect.Parameter(
            word.partition("=")[0].strip(),
            inspect.Parameter.POSITIONAL_OR_KEYWORD,
            default=None if "=" in word else _EMPTY,
        )
        for word in text.split(",")
    ]

    def function(*args: Any, **kwargs: Any) -> None: ...

    function.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    return function
