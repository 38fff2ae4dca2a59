"""config.json of Hugging Face: what it says, with nothing left unread that would change what the model computes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from regard.models.feed_forward import Activation
from regard.positions import DynamicNTK, LinearScaling, Llama3Scaling, LongRoPE, YaRN

__all__ = ["Settings", "rotary", "windows"]

Scaling = LinearScaling | DynamicNTK | YaRN | Llama3Scaling | LongRoPE

#: Settings that say how a model is trained, stored, called or continued, and not what it computes.
HARMLESS = (
    "_attn_implementation", "_attn_implementation_autoset", "_name_or_path", "architectures", "begin_suppress_tokens",
    "bos_token_id", "classifier_dropout", "do_sample", "dtype", "eos_token_id", "finetuning_task",
    "gradient_checkpointing", "id2label", "initializer_range", "label2id", "max_length", "model_type", "num_labels",
    "pad_token_id", "problem_type", "return_dict", "sep_token_id", "task_specific_params", "tokenizer_class",
    "torch_dtype", "torchscript", "transformers_version", "use_cache", "use_return_dict",
)  # fmt: skip
#: The kinds of scaling of rotary positions.
KINDS = ("linear", "dynamic", "llama3", "yarn", "longrope")
#: Settings of which one value changes nothing, and every other is something that is not supported here.
ONLY: dict[str, tuple[Any, ...]] = {
    "is_causal": (None, True),
    "is_decoder": (None, False),
    "is_encoder_decoder": (None, False),
    "add_cross_attention": (None, False),
    "pretraining_tp": (None, 1),
    "chunk_size_feed_forward": (None, 0),
    "output_attentions": (None, False),
    "output_hidden_states": (None, False),
    "pruned_heads": (None, {}),
    "partial_rotary_factor": (None, 1, 1.0),
    "per_layer_config": (None, {}),
    "position_embedding_type": (None, "absolute"),
    "tie_encoder_decoder": (None, False),
}
ACTIVATIONS: dict[str, Activation] = {
    "silu": "silu", "swish": "silu", "gelu": "gelu", "gelu_python": "gelu", "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh", "relu": "relu",
}  # fmt: skip


class Settings:
    """The settings of one model, of which each is read once; :meth:`close` refuses what nobody has read.

    >>> settings = Settings({"model_type": "llama", "hidden_size": 8, "new_trick": True})
    >>> settings.read("hidden_size")
    8
    >>> settings.close()
    Traceback (most recent call last):
    ...
    ValueError: config.json has new_trick=True, which regard does not know: it may change what a llama computes

    Args:
        raw: config.json.
        only: settings of which one value is supported, besides those of every model.
    """

    def __init__(self, raw: Mapping[str, Any], only: Mapping[str, tuple[Any, ...]] | None = None) -> None:
        self.kind = str(raw.get("model_type"))
        self._raw = dict(raw)
        self._only = ONLY | dict(only or {})
        self._read = set(HARMLESS)

    def read(self, name: str, default: Any = ..., *, null: Any = ...) -> Any:
        """A setting; the default where it is absent, ``null`` (the default if not given) where it is null."""
        self._read.add(name)
        value = self._raw.get(name)
        if value is not None:
            return value
        found = null if name in self._raw and null is not ... else default
        if found is ...:
            raise ValueError(f"config.json has no {name}, which a {self.kind} needs")
        return found

    def size(self, name: str, default: Any = ..., *, null: Any = ..., least: int = 1) -> Any:
        """A setting that is an integer of at least ``least``."""
        given = self.read(name, default, null=null)
        if self._raw.get(name) is not None and (isinstance(given, bool) or not isinstance(given, int) or given < least):
            raise ValueError(f"config.json has {name}={given!r}; expected an integer of at least {least}")
        return given

    def number(self, name: str, default: Any = ...) -> Any:
        """A setting that is a number."""
        given = self.read(name, default)
        if self._raw.get(name) is not None and (isinstance(given, bool) or not isinstance(given, int | float)):
            raise ValueError(f"config.json has {name}={given!r}; expected a number")
        return given

    def activation(self, name: str, default: str) -> Activation:
        """A function of torch's by the name that transformers has for it."""
        given = self.read(name, default)
        if not isinstance(given, str) or given not in ACTIVATIONS:
            raise ValueError(f"config.json has {name}={given!r}, which is not supported; {', '.join(ACTIVATIONS)} are")
        return ACTIVATIONS[given]

    def flag(self, name: str, *, default: bool) -> bool:
        """A setting that is true or false."""
        given = self.read(name, default)
        if not isinstance(given, bool):
            raise ValueError(f"config.json has {name}={given!r}; expected true or false")
        return given

    def close(self) -> None:
        """Refuse every setting that may change what the model computes and has not been read."""
        for name, value in self._raw.items():
            if name in self._only and name not in self._read:
                if value not in self._only[name]:
                    allowed = " or ".join(repr(v) for v in self._only[name] if v is not None) or "only null"
                    raise ValueError(f"config.json has {name}={value!r}, which is not supported; {allowed} is")
            elif name not in self._read and value is not None:
                raise ValueError(
                    f"config.json has {name}={value!r}, which regard does not know: it may change what a {self.kind} "
                    "computes"
                )


def rotary(settings: Settings, base: float) -> tuple[float, Scaling | None]:
    """The base and the scaling of rotary positions, as today's ``rope_parameters`` or yesterday's ``rope_scaling`` say.

    Args:
        settings: of the model, which names ``max_position_embeddings``.
        base: where nothing says one.

    Raises:
        ValueError: a kind of scaling that is not supported, or one without its numbers.
    """
    today, yesterday = settings.read("rope_parameters", {}), settings.read("rope_scaling", {})
    theta, longest = settings.number("rope_theta", None), settings.size("max_position_embeddings", None)
    original = settings.size("original_max_position_embeddings", None)
    for name, given in (("rope_parameters", today), ("rope_scaling", yesterday)):
        if not isinstance(given, dict):
            raise ValueError(f"config.json has {name}={given!r}; expected an object, or null")
    if today and yesterday and today != yesterday:  # transformers takes rope_scaling alone, and its own base
        raise ValueError(
            "config.json has rope_parameters and rope_scaling, and they contradict each other; expected one of them, "
            "rope_parameters with all that both say"
        )
    given = dict(today or yesterday)
    kind = given.pop("rope_type", given.pop("type", "default"))
    given.pop("type", None)
    inner = given.pop("rope_theta", None)
    if theta is not None and inner is not None and theta != inner:
        raise ValueError(f"config.json has rope_theta={theta} and, in rope_parameters, {inner}")
    if isinstance(inner, bool) or not isinstance(inner, int | float | None):
        raise ValueError(f"config.json has rope_parameters with rope_theta={inner!r}; expected a number")
    base = float(next(each for each in (inner, theta, base) if each is not None))
    if given.pop("partial_rotary_factor", 1) not in (1, 1.0, None):
        raise ValueError("config.json has a partial_rotary_factor other than 1, which is not supported")
    if kind == "default":
        if given:
            raise ValueError(f"config.json has rope_parameters of the kind 'default' with {', '.join(sorted(given))}")
        return base, None
    if kind not in KINDS:
        raise ValueError(f"config.json has a rope_type of {kind!r}, which is not supported; {', '.join(KINDS)} are")
    try:
        return base, _scaling(kind, given, original, longest)
    except TypeError as error:
        raise ValueError(f"config.json has rope_parameters of the kind {kind!r} with {error}") from error


def _scaling(kind: str, given: dict[str, Any], original: int | None, longest: int | None) -> Scaling:
    """The scaling of a kind, of its numbers: every one is used, or refused by name."""
    trained = given.pop("original_max_position_embeddings", None)
    trained = original if original is not None else trained if trained is not None else longest
    if kind != "linear" and (longest if kind == "dynamic" else trained) is None:
        raise ValueError(f"config.json has rope_parameters of the kind {kind!r} and no max_position_embeddings")

    def number(name: str) -> Any:
        if given.get(name) is None:
            raise ValueError(f"config.json has rope_parameters of the kind {kind!r} without {name}")
        return given.pop(name)

    def stretch() -> float | None:
        factor = given.pop("factor", None)
        return longest / trained if factor is None and longest and trained else factor

    found: Scaling
    if kind == "linear":
        found = LinearScaling(number("factor"))
    elif kind == "dynamic":  # which counts from the longest text, whatever else is written there
        found = DynamicNTK(number("factor"), longest)  # type: ignore[arg-type]
    elif kind == "llama3":
        found = Llama3Scaling(number("factor"), number("low_freq_factor"), number("high_freq_factor"), trained)  # type: ignore[arg-type]
    elif kind == "yarn":
        truncate = bool(given.pop("truncate", True))  # null is false in transformers
        options = {name: given.pop(name, None) for name in ("beta_fast", "beta_slow", "attention_factor")}
        parts = {name: given.pop(name, None) for name in ("mscale", "mscale_all_dim")}
        if all(parts.values()):  # one without the other has no effect in transformers
            options |= parts
        options = {name: value for name, value in options.items() if value is not None}
        found = YaRN(stretch(), trained, truncate=truncate, **options)  # type: ignore[arg-type]
    else:
        factors = number("short_factor"), number("long_factor")
        found = LongRoPE(*factors, trained, factor=stretch(), attention_factor=given.pop("attention_factor", None))  # type: ignore[arg-type]
    if given:
        raise ValueError(f"config.json has rope_parameters of the kind {kind!r} with {', '.join(sorted(given))}")
    return found


def windows(settings: Settings, num_layers: int, window: int | None) -> tuple[int | None, ...] | None:
    """The window of each layer as ``layer_types`` says, None for one that reads every earlier token.

    Args:
        settings: of the model.
        num_layers: how many layers it has.
        window: that of a layer in a window.

    Returns:
        One for each layer; None where ``layer_types`` is not there.

    Raises:
        ValueError: a type that is not supported, or a number of types that is not that of the layers.
    """
    types = settings.read("layer_types", None)
    if types is None:
        return None
    if not isinstance(types, list) or len(types) != num_layers:
        raise ValueError(f"config.json has layer_types={types!r}; expected one for each of the {num_layers} layers")
    for each in types:
        if each not in ("full_attention", "sliding_attention"):
            raise ValueError(
                f"config.json has a layer of the type {each!r}, which is not supported; full_attention and "
                "sliding_attention are"
            )
    if window is None and "sliding_attention" in types:
        raise ValueError("config.json has layers of the type 'sliding_attention' and no sliding_window")
    return tuple(window if each == "sliding_attention" else None for each in types)
