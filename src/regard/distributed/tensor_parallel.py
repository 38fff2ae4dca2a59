"""Layers cut over ranks by heads: styles for torch's ``parallelize_module``."""

from __future__ import annotations

from typing import Any
from weakref import WeakKeyDictionary

from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import Placement, Replicate, Shard
from torch.distributed.tensor.parallel import ParallelStyle

from regard.distributed.tensor_layer import HeadALiBi, HeadParallelAttention, mask_of_heads
from regard.distributed.tensor_projections import ColumnProjection, EachRank, RowProjection, cut, shared
from regard.distributed.unfused import check_bare, is_gated, unfuse
from regard.multi_head import MultiHeadAttention
from regard.positions import ALiBi, Positions
from regard.qk_norm import HeadwiseLayerNorm, OffsetRMSNorm, QKNorm

__all__ = ["HeadParallel", "HiddenParallel", "tensor_plan"]

# Norms whose parameters are (D,), the same for every head.
ALIKE = (nn.RMSNorm, nn.LayerNorm, OffsetRMSNorm)
# What has been made of a norm that other layers may still have.
CUT: WeakKeyDictionary[nn.Module, EachRank] = WeakKeyDictionary()


class HeadParallel(ParallelStyle):
    """Cut a :class:`regard.MultiHeadAttention` over ranks by heads, each with its part of every projection.

    ``out = sum_r Concat(heads of rank r) W^O_r + b^O``, where rank r has the rows of W^Q, W^K and W^V that make its
    heads, and the columns of W^O that read them

    ::

        mesh = init_device_mesh("cuda", (8,), mesh_dim_names=("tensor",))
        parallelize_module(model, mesh["tensor"], {"layers.*.attention": regard.distributed.HeadParallel()})

    x, a context and a mask are the whole ones, the same on every rank, and so is the output; the first call compares x.
    That is one sum over the ranks
    forward, and one backward for each of x and a context. Weights (``need_weights=True``) and caches are of this rank's
    heads, and so are the layer's num_heads, num_kv_heads, d_k and d_v. With grouped heads, the ranks divide the
    key/value heads, each with the query heads that read them.

    In the place of in_proj the layer then has q_proj, k_proj and v_proj (:func:`regard.distributed.unfuse`): the rows
    of a rank are one piece of each, so that every parameter is a DTensor of the whole one, and a checkpoint is of whole
    tensors. Parameters that are the same for every head, those of a :class:`regard.QKNorm`, stay whole on every rank,
    and their gradients are summed. ``fully_shard``, checkpoints of activations and hooks come after.

    Raises:
        TypeError: a module of another class; something else in the place of a projection, or one with hooks; a norm
            whose parameters may be of one head or of all.
        ValueError: a number of heads or key/value heads that the ranks do not divide; dropout, which would drop alike
            in heads of different ranks; norms over all heads; a learned bias of the scores, such as
            :class:`regard.positions.RelativeBias`; a mesh of several dimensions. The layer is then as it was.

    References:
        Shoeybi et al., Megatron-LM: Training Multi-Billion Parameter Language Models Using Model Parallelism, 2019.
    """

    src_data_rank: int | None = 0

    def _apply(self, module: nn.Module, device_mesh: DeviceMesh) -> nn.Module:
        layer: Any = _checked(module, device_mesh)
        world = device_mesh.size()
        heads = _share(layer.num_heads, device_mesh)
        mask, whole = mask_of_heads(layer.mask, heads, layer.num_heads, None), layer.num_heads
        norms = _norms(layer.norm)
        positions = HeadALiBi(layer.positions, heads) if isinstance(layer.positions, ALiBi) else layer.positions
        unfuse(layer)
        source = self.src_data_rank
        for name in ("q_proj", "k_proj", "v_proj", *(() if layer.gate is None else ("gate_proj",))):
            setattr(layer, name, ColumnProjection(getattr(layer, name), device_mesh, source))
        layer.out_proj = RowProjection(layer.out_proj, device_mesh, source)
        if layer.sinks is not None:
            layer.sinks = cut(layer.sinks, device_mesh, Shard(0), source)
        made = {id(norm): _each_rank(norm, device_mesh, placements, source) for norm, placements in norms}
        for name in ("q", "k") if layer.norm is not None else ():
            setattr(layer.norm, name, made.get(id(getattr(layer.norm, name)), getattr(layer.norm, name)))
        layer.mask, layer.positions = mask, positions
        layer._rows = [rows // world for rows in layer._rows]
        for name in ("num_heads", "num_kv_heads", "d_k", "d_v"):
            setattr(layer, name, getattr(layer, name) // world)
        layer.__class__ = HeadParallelAttention
        layer.heads, layer.all_heads, layer.mesh = heads, whole, device_mesh
        return module

    def __repr__(self) -> str:
        return "HeadParallel()"


class HiddenParallel(ParallelStyle):
    """Cut the feed-forward part of a block of :mod:`regard.models` over ranks, by its hidden layer.

    ``out = sum_r down_r(activation(gate_r(x)) * up_r(x)) + b``, or ``sum_r down_r(activation(up_r(x))) + b``

    A gated part then has a gate and an up in the place of gate_up (:func:`regard.distributed.unfuse`).

    Raises:
        TypeError: a module that is neither a gated part nor a sequence (up, activation, down); an activation with
            parameters.
        ValueError: a hidden layer whose width the ranks do not divide. The module is then as it was.
    """

    src_data_rank: int | None = 0

    def _apply(self, module: nn.Module, device_mesh: DeviceMesh) -> nn.Module:
        _check_mesh(device_mesh)
        gated = is_gated(module) or {"gate", "up", "down"} <= set(module._modules)
        if not gated and not (isinstance(module, nn.Sequential) and len(module) == 3):
            raise TypeError(
                "HiddenParallel() is for the feed-forward part of a block of regard.models, gated or (up, activation, "
                f"down), got {type(module).__name__}"
            )
        into: tuple[str, ...] = ("gate", "up") if gated else ("0",)
        out = "down" if gated else "2"
        check_bare(module, [*(("gate_up",) if is_gated(module) else into), out], "HiddenParallel()")
        if not gated and next(module[1].parameters(), None) is not None:  # type: ignore[index]
            raise TypeError(
                "HiddenParallel(): the activation must be without parameters, which each rank would train by its own "
                f"part of the hidden layer, got {type(module[1]).__name__}"  # type: ignore[index]
            )
        width = getattr(module, out).in_features
        if width % device_mesh.size():
            raise ValueError(
                f"the hidden layer must divide among {device_mesh.size()} ranks, got {width} columns in "
                f"{type(module).__name__}"
            )
        unfuse(module)
        for name in into:
            setattr(module, name, ColumnProjection(getattr(module, name), device_mesh, self.src_data_rank))
        setattr(module, out, RowProjection(getattr(module, out), device_mesh, self.src_data_rank))
        module.register_forward_pre_hook(lambda _, given: (shared(given[0], device_mesh), *given[1:]))
        return module

    def __repr__(self) -> str:
        return "HiddenParallel()"


def tensor_plan(model: nn.Module) -> dict[str, ParallelStyle]:
    """What ``parallelize_module`` does with a model: its attention by heads, its feed-forward parts by hidden layer.

    >>> import regard
    >>> from regard.models import Decoder, DecoderConfig
    >>> model = Decoder(DecoderConfig(vocab_size=8, d_model=16, num_layers=1, num_heads=2, d_mlp=32))
    >>> regard.distributed.tensor_plan(model)
    {'blocks.0.attention': HeadParallel(), 'blocks.0.mlp': HiddenParallel()}

    Embeddings, norms of the stream and the output stay whole on every rank, where their gradients come out the same.
    All ranks make the model with one seed, and draw with one what is dropped and which token comes next. PyTorch does
    not mix both kinds of parameters in one operation, neither to clip gradients nor in an optimizer that takes many at
    a time, as on CUDA: give each kind a group

    ::

        kinds = [[p for p in model.parameters() if isinstance(p, DTensor) is cut] for cut in (True, False)]
        optimizer = torch.optim.AdamW([{"params": kind} for kind in kinds])
        norms = [get_total_norm([p.grad for p in kind]) for kind in kinds]  # of torch.nn.utils
        norm = torch.stack([norms[0].full_tensor(), norms[1]]).norm()
        for kind in kinds:
            clip_grads_with_norm_(kind, 1.0, norm)

    Parameters are drawn before the model is cut, or by each layer's own ``reset_parameters()``: on CPUs, what
    :mod:`torch.nn.init` draws for one that is cut is alike on all ranks.

    Args:
        model: a model of :mod:`regard.models`, or any with :class:`regard.MultiHeadAttention` in it.

    Returns:
        The plan, {name of a module: style}.
    """
    from regard.models.block import Block
    from regard.models.encoder_block import EncoderBlock

    plan: dict[str, ParallelStyle] = {}
    for name, module in model.named_modules():
        if isinstance(module, MultiHeadAttention):
            plan[name] = HeadParallel()
        elif isinstance(module, Block | EncoderBlock):
            plan[f"{name}.mlp" if name else "mlp"] = HiddenParallel()
    return dict(sorted(plan.items()))


def _each_rank(norm: nn.Module, mesh: DeviceMesh, placements: dict[str, Placement], source: int | None) -> EachRank:
    """The norm over ranks; the same one for every layer that shares it."""
    made = CUT.get(norm)
    if made is None or made.mesh != mesh:
        made = CUT[norm] = EachRank(norm, mesh, placements, source)
    return made


def _check_mesh(mesh: DeviceMesh) -> None:
    if mesh.ndim != 1:
        raise ValueError(
            f"mesh must have one dimension, got {mesh.ndim}: {mesh.mesh_dim_names}; name the one that shares the "
            'heads, mesh["tensor"]'
        )


def _share(count: int, mesh: DeviceMesh) -> slice:
    each, rank = count // mesh.size(), mesh.get_local_rank()
    return slice(rank * each, (rank + 1) * each)


def _checked(module: nn.Module, mesh: DeviceMesh) -> MultiHeadAttention:
    """The layer, once nothing is left that would have to be refused; it is only changed after."""
    _check_mesh(mesh)
    if type(module) is not MultiHeadAttention:
        raise TypeError(
            f"HeadParallel() is for a regard.MultiHeadAttention, got {type(module).__name__}; name the attention "
            "layers in the plan, and apply it before fully_shard"
        )
    layer, world = module, mesh.size()
    for name in ("num_heads", "num_kv_heads"):
        if getattr(layer, name) % world:
            raise ValueError(
                f"{name} must be a multiple of the number of ranks, {world}, which share the heads, got "
                f"{getattr(layer, name)}; a mesh dimension that divides it fits"
            )
    if layer.dropout:
        raise ValueError(
            f"HeadParallel() goes without dropout of weights, got dropout={layer.dropout}: heads of different ranks "
            "would drop alike; set layer.dropout = 0.0"
        )
    names = ["in_proj"] if layer._is_fused else ["q_proj", "k_proj", "v_proj"]
    check_bare(layer, [*names, "out_proj", *([] if layer.gate is None else ["gate_proj"])], "HeadParallel()")
    _check_positions(layer.positions)
    if layer.norm is not None and layer.norm.over == "all":
        raise ValueError(
            'HeadParallel(): norm must be QKNorm(..., over="head"), got over="all": it reads the heads of all ranks'
        )
    _norms(layer.norm)
    return layer


def _check_positions(positions: Positions | None) -> None:
    if positions is None or (type(positions) is ALiBi and not isinstance(positions.slopes, nn.Parameter)):
        return
    if next(positions.parameters(), None) is not None or type(positions).bias is not Positions.bias:
        raise ValueError(
            f"HeadParallel(): positions must be rotations without parameters or ALiBi of given slopes, got "
            f"{positions!r}: what is learned of it would be of other heads on every rank"
        )


def _norms(norm: QKNorm | None) -> list[tuple[nn.Module, dict[str, Placement]]]:
    """Each norm of queries and keys that is not cut yet, and where its parameters go."""
    found: dict[int, tuple[nn.Module, dict[str, Placement]]] = {}
    for name in () if norm is None else ("q", "k"):
        own = getattr(norm, name)
        if isinstance(own, EachRank) or next(own.parameters(), None) is None:
            continue  # shared with a layer before this one; or nothing to cut
        if type(own) is HeadwiseLayerNorm:
            found[id(own)] = own, {"weight": Shard(0)}
        elif type(own) in ALIKE:
            found[id(own)] = own, {n: Replicate() for n, _ in own.named_parameters()}
        else:
            raise TypeError(
                f"HeadParallel(): norm.{name} must be a torch.nn.RMSNorm or LayerNorm, or one of regard.qk_norm, got "
                f"{type(own).__name__}: its parameters may be of one head or of all"
            )
    return list(found.values())
