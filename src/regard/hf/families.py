"""Which attention layers of transformers regard can make its own of, and how each is read."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import Any

from torch import nn

from regard.hf.families_decoders import Decoder
from regard.hf.families_latent import Latent
from regard.hf.families_norms import Norm
from regard.hf.families_others import T5, Bert, Gpt2, Plain
from regard.hf.families_singles import GptBigCode, GptJ, GptNeo, ModernBert

__all__ = ["CLASSES", "Family", "family_of"]

HOME = "transformers.models."


@dataclass(frozen=True)
class Family:
    """Classes whose layers are read in one way."""

    name: str
    classes: tuple[str, ...]
    """As "llama.LlamaAttention": the module is transformers.models.llama.modeling_llama."""
    how: Decoder | Plain | Bert | Gpt2 | GptBigCode | GptJ | GptNeo | ModernBert | T5 | Latent
    inside: str = ""
    """What the loaded layer computes, where that is not all of what the class computes."""


BERT_INSIDE = "output.dense of self: the residual, its dropout and LayerNorm stay outside"
VIT = Plain(out="o_proj", dropout="attention_dropout", heads="num_attention_heads", causal="never")
CAUSAL_TEXTS = ("clip_text_model", "clipseg_text_model", "metaclip_2_text_model")
CLIP = Plain(scale="scale", causal="never", causal_models=CAUSAL_TEXTS)
DISTILBERT = Plain(
    ("q_lin", "k_lin", "v_lin"), "out_lin", heads="n_heads", head_dim="attention_head_size", causal="never"
)
ALBERT = Plain(
    ("query", "key", "value"),
    "dense",
    dropout="attention_dropout",
    heads="num_attention_heads",
    head_dim="attention_head_size",
    causal="never",
    outside="LayerNorm",
)
RMS, OFFSET_RMS, RMS_OF_ALL = Norm("rms"), Norm("offset_rms"), Norm("rms", over="all")


def _llama_like(name: str, *classes: str, models: tuple[str, ...] | None = None, **options: Any) -> Family:
    """Decoders with rotary positions; a configuration's model_type is the folder of the class unless it is given."""
    return Family(name, classes, Decoder(models or tuple(each.split(".")[0] for each in classes), **options))


def _layernorms(kind: Any, switch: str | None = "qk_layernorm") -> Norm:
    return Norm(kind, "q_layernorm", "k_layernorm", switch=switch)


FAMILIES: tuple[Family, ...] = (
    _llama_like("Llama", "llama.LlamaAttention"),
    _llama_like("Arcee", "arcee.ArceeAttention"),
    _llama_like("Jais 2", "jais2.Jais2Attention"),
    _llama_like("Mistral", "mistral.MistralAttention", window="always"),
    _llama_like("Mixtral", "mixtral.MixtralAttention", window="always"),
    _llama_like("StarCoder2", "starcoder2.Starcoder2Attention", window="always", output_dropout="residual_dropout"),
    _llama_like("Qwen2", "qwen2.Qwen2Attention", window="by layer"),
    _llama_like("Qwen2-MoE", "qwen2_moe.Qwen2MoeAttention", window="by layer"),
    _llama_like("Qwen3", "qwen3.Qwen3Attention", window="by layer", norm=RMS),
    _llama_like("Qwen3-MoE", "qwen3_moe.Qwen3MoeAttention", window="always", norm=RMS),
    _llama_like("Qwen3-Next", "qwen3_next.Qwen3NextAttention", projections="gated", norm=OFFSET_RMS),
    _llama_like("dots.llm1", "dots1.Dots1Attention", window="by layer", norm=RMS),
    _llama_like("Gemma", "gemma.GemmaAttention"),
    _llama_like("Gemma 2", "gemma2.Gemma2Attention", window="by layer", softcap="attn_logit_softcapping"),
    _llama_like(
        "Gemma 3", "gemma3.Gemma3Attention", models=("gemma3_text",), window="by layer", norm=OFFSET_RMS, both_ways=True
    ),
    _llama_like("GPT-OSS", "gpt_oss.GptOssAttention", window="by layer", sinks="sinks"),
    _llama_like("Phi", "phi.PhiAttention", out="dense", norm=_layernorms("layer")),
    _llama_like("Phi-3", "phi3.Phi3Attention", window="always", projections="fused", fused="qkv_proj"),
    _llama_like("OLMo", "olmo.OlmoAttention"),
    _llama_like("OLMo 2", "olmo2.Olmo2Attention", norm=RMS_OF_ALL),
    _llama_like("OLMo 3", "olmo3.Olmo3Attention", window="by layer", norm=RMS_OF_ALL),
    _llama_like("FlexOLMo", "flex_olmo.FlexOlmoAttention", norm=RMS_OF_ALL),
    _llama_like("MiniMax-M2", "minimax_m2.MiniMaxM2Attention", norm=RMS_OF_ALL),
    _llama_like("Cohere", "cohere.CohereAttention", norm=Norm("headwise", switch="use_qk_norm")),
    _llama_like("Cohere 2", "cohere2.Cohere2Attention", window="by layer", rotates="in windows"),
    _llama_like("Granite", "granite.GraniteAttention"),
    _llama_like("Granite-MoE", "granitemoe.GraniteMoeAttention", "granitemoeshared.GraniteMoeSharedAttention"),
    _llama_like("StableLM", "stablelm.StableLmAttention", norm=_layernorms("headwise_list")),
    _llama_like(
        "GPT-NeoX", "gpt_neox.GPTNeoXAttention", projections="fused by head", out="dense", head_dim="head_size"
    ),
    _llama_like(
        "Persimmon", "persimmon.PersimmonAttention", projections="fused by head", out="dense", norm=_layernorms("layer")
    ),
    _llama_like("SmolLM3", "smollm3.SmolLM3Attention", window="by layer", rotates="as use_rope says"),
    _llama_like("GLM-4-MoE", "glm4_moe.Glm4MoeAttention", norm=Norm("rms", switch="use_qk_norm")),
    _llama_like("HY 3", "hy_v3.HYV3Attention", norm=RMS),
    _llama_like("HyperCLOVA X", "hyperclovax.HyperCLOVAXAttention"),
    _llama_like("GLM", "glm.GlmAttention", "glm4.Glm4Attention"),
    _llama_like("Helium", "helium.HeliumAttention"),
    _llama_like("Nemotron", "nemotron.NemotronAttention"),
    _llama_like("ERNIE 4.5", "ernie4_5.Ernie4_5Attention", "ernie4_5_moe.Ernie4_5_MoeAttention"),
    _llama_like("Seed-OSS", "seed_oss.SeedOssAttention", output_dropout="residual_dropout"),
    _llama_like("Apertus", "apertus.ApertusAttention", norm=RMS),
    _llama_like(
        "LFM2",
        "lfm2.Lfm2Attention",
        "lfm2_moe.Lfm2MoeAttention",
        out="out_proj",
        dropout=None,
        norm=_layernorms("rms", None),
    ),
    _llama_like("EXAONE 4", "exaone4.Exaone4Attention", window="by layer", rotates="in windows, if any", norm=RMS),
    _llama_like(
        "HunYuan",
        "hunyuan_v1_dense.HunYuanDenseV1Attention",
        "hunyuan_v1_moe.HunYuanMoEV1Attention",
        norm=Norm("rms", "query_layernorm", "key_layernorm", when="after"),
    ),
    Family(
        "DeepSeek-V3", ("deepseek_v3.DeepseekV3Attention", "youtu.YoutuAttention"), Latent(("deepseek_v3", "youtu"))
    ),
    Family("GPT-2", ("gpt2.GPT2Attention", "decision_transformer.DecisionTransformerGPT2Attention"), Gpt2()),
    Family("OPT", ("opt.OPTAttention",), Plain(causal="always")),
    Family("BioGPT", ("biogpt.BioGptAttention",), Plain()),
    Family("GPT-J", ("gptj.GPTJAttention",), GptJ()),
    Family("GPT-Neo", ("gpt_neo.GPTNeoSelfAttention",), GptNeo()),
    Family("GPTBigCode", ("gpt_bigcode.GPTBigCodeAttention",), GptBigCode()),
    Family("ModernBERT", ("modernbert.ModernBertAttention",), ModernBert()),
    Family("DistilBERT", ("distilbert.DistilBertSelfAttention",), DISTILBERT),
    Family(
        "ALBERT",
        ("albert.AlbertAttention",),
        ALBERT,
        "dense of the heads: the residual, its dropout and LayerNorm stay outside",
    ),
    Family("BERT", ("bert.BertAttention",), Bert(), BERT_INSIDE),
    Family(
        "RoBERTa",
        ("roberta.RobertaAttention", "xlm_roberta.XLMRobertaAttention", "camembert.CamembertAttention"),
        Bert(),
        BERT_INSIDE,
    ),
    Family("ELECTRA", ("electra.ElectraAttention",), Bert(), BERT_INSIDE),
    Family("ERNIE", ("ernie.ErnieAttention",), Bert(), BERT_INSIDE),
    Family("RoCBert", ("roc_bert.RoCBertAttention",), Bert(), BERT_INSIDE),
    Family("LayoutLM", ("layoutlm.LayoutLMAttention",), Bert(), BERT_INSIDE),
    Family("Splinter", ("splinter.SplinterAttention",), Bert(), BERT_INSIDE),
    Family("T5", ("t5.T5Attention", "mt5.MT5Attention", "switch_transformers.SwitchTransformersAttention"), T5()),
    Family("BART", ("bart.BartAttention",), Plain()),
    Family("mBART", ("mbart.MBartAttention", "plbart.PLBartAttention", "m2m_100.M2M100Attention"), Plain()),
    Family("Marian", ("marian.MarianAttention",), Plain()),
    Family("Pegasus", ("pegasus.PegasusAttention",), Plain()),
    Family("Blenderbot", ("blenderbot.BlenderbotAttention", "blenderbot_small.BlenderbotSmallAttention"), Plain()),
    Family("Whisper", ("whisper.WhisperAttention",), Plain()),
    Family("Wav2Vec2", ("wav2vec2.Wav2Vec2Attention", "hubert.HubertAttention"), Plain()),
    Family("ViT", ("vit.ViTAttention", "vit_mae.ViTMAEAttention", "vit_msn.ViTMSNAttention"), VIT),
    Family("DeiT", ("deit.DeiTAttention",), VIT),
    Family("DINOv2", ("dinov2.Dinov2Attention", "dinov2_with_registers.Dinov2WithRegistersAttention"), VIT),
    Family("I-JEPA", ("ijepa.IJepaAttention",), VIT),
    Family("AST", ("audio_spectrogram_transformer.ASTAttention",), VIT),
    Family("CLIP", ("clip.CLIPAttention", "clipseg.CLIPSegAttention", "metaclip_2.MetaClip2Attention"), CLIP),
    Family("SigLIP", ("siglip.SiglipAttention", "siglip2.Siglip2Attention"), CLIP),
)
CLASSES: dict[str, Family] = {}
"""The family of a class, by the class's full name."""
for _family in FAMILIES:
    for _each in _family.classes:
        _module, _, _name = _each.partition(".")
        CLASSES[f"{HOME}{_module}.modeling_{_module}.{_name}"] = _family


def family_of(layer: nn.Module) -> Family:
    """The family of a layer, found by its exact class."""
    if not isinstance(layer, nn.Module):
        raise TypeError(f"layer must be an attention layer of transformers, got {type(layer).__name__}")
    name = full_name(type(layer))
    if name in CLASSES:
        return CLASSES[name]
    raise ValueError(f"layer must be an attention layer whose class regard knows, got {name}{_hint(layer)}; {_known()}")


def full_name(cls: type) -> str:
    """The module of a class and its name in there."""
    return f"{cls.__module__}.{cls.__qualname__}"


def _hint(layer: nn.Module) -> str:
    for base in type(layer).__mro__[1:]:
        if full_name(base) in CLASSES:
            return f", a subclass of {base.__name__}: it may compute something else"
    inside = [(name, type(m)) for name, m in layer.named_modules() if name and full_name(type(m)) in CLASSES]
    if inside:
        name, cls = inside[0]
        return f", which holds {len(inside)} of them: pass layer.{name}, a {cls.__name__}"
    # The halves of BERT's layer: the projection of the output is in the module around them.
    around = type(layer).__name__.replace("SelfAttention", "Attention").replace("CrossAttention", "Attention")
    if around != type(layer).__name__ and f"{type(layer).__module__}.{around}" in CLASSES:
        return f": pass the {around} that it is part of, which has the output projection"
    names = [each.rpartition(".")[2] for each in CLASSES]
    near = difflib.get_close_matches(type(layer).__name__, names, 1, 0.0)
    return f"; the nearest name is {near[0]}" if near else ""


def _known() -> str:
    return "known are " + ", ".join(sorted(name.removeprefix(HOME).rpartition(".")[2] for name in CLASSES))
