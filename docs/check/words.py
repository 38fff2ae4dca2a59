"""What the pages say and no program can know: the bugs, where they were seen, and why a property is kept."""

from __future__ import annotations

import re

REPOSITORIES: dict[str, str] = {
    "BERT-pytorch": "codertimo/BERT-pytorch",
    "DiffPoseTalk": "DiffPoseTalk/DiffPoseTalk",
    "FuxiCTR": "reczoo/FuxiCTR",
    "LLMs-from-scratch": "rasbt/LLMs-from-scratch",
    "LoFTR": "zju3dv/LoFTR",
    "Megatron-LM": "NVIDIA/Megatron-LM",
    "Modalities": "Modalities/modalities",
    "apex": "NVIDIA/apex",
    "attention-is-all-you-need-keras": "lsdefine/attention-is-all-you-need-keras",
    "axlearn": "apple/axlearn",
    "detr": "facebookresearch/detr",
    "exllamav3": "turboderp-org/exllamav3",
    "fairseq": "facebookresearch/fairseq",
    "flash-attn": "Dao-AILab/flash-attention",
    "flashinfer": "flashinfer-ai/flashinfer",
    "flax": "google/flax",
    "gpt-neox": "EleutherAI/gpt-neox",
    "how-to-train-your-gpt": "raiyanyahya/how-to-train-your-gpt",
    "jax": "jax-ml/jax",
    "keras": "keras-team/keras",
    "labml": "labmlai/annotated_deep_learning_paper_implementations",
    "maxtext": "AI-Hypercomputer/maxtext",
    "mlx": "ml-explore/mlx",
    "neuracore": "NeuracoreAI/neuracore",
    "onnx": "onnx/onnx",
    "perceiver-io": "esceptico/perceiver-io",
    "pytorch": "pytorch/pytorch",
    "rotary-embedding-torch": "lucidrains/rotary-embedding-torch",
    "timm": "huggingface/pytorch-image-models",
    "torchtune": "meta-pytorch/torchtune",
    "transformer-from-scratch": "jsbaan/transformer-from-scratch",
    "transformers": "huggingface/transformers",
    "vit-pytorch": "lucidrains/vit-pytorch",
    "vllm": "vllm-project/vllm",
    "x-transformers": "lucidrains/x-transformers",
    "xformers": "facebookresearch/xformers",
}
"""What a bug report is called in the docstrings -> where it is. A name that is not here stays plain text."""

THREADS = re.compile(r"(?<![\w/-])([A-Za-z][\w-]*)( PR)? #(\d+)((?:, #\d+)*)")

BUGS: dict[int, str] = {
    1: "The built-in causal mask starts at the first query when there are more keys than queries, so that decoding "
    "against a cache sees the wrong part of the past (pytorch #103082, #108108; flash-attn #282)",
    2: "A query whose every key is masked gets NaN (pytorch #103963, #103749, #41508)",
    3: "The output of such a query was cleaned, and the gradients of the whole batch are NaN (pytorch #41508)",
    4: "Rows filled with the lowest finite number turn to NaN on one device and not on another (pytorch #110213, "
    "#109517)",
    5: "A fast path for inference gives NaN where the slow path gives 0 (pytorch PR #190486)",
    6: "Asking for the weights makes the causal option disappear (pytorch #99282)",
    7: "The causal mask is lost when dropout is on, or when scores are to be returned (keras #23038)",
    8: "Under one backend a decoder reads the tokens that it is to predict, and looks better for it (transformers PR "
    "#48770)",
    9: "The causal option acts only if a mask is given as well (xformers #103)",
    10: "One backend accepts the mask and does not apply it (maxtext #878; jax #23349)",
    11: "A padding mask switches causal off (transformers PR #41966)",
    12: "A boolean mask is added to the scores as ones and zeros (transformers PR #41443)",
    13: "True means masked in one library and may attend in the next (LLMs-from-scratch #1061; x-transformers #164)",
    14: "Masked scores are filled with -1e9, which float16 does not have (flax #982; apex #1105; fairseq #3575)",
    15: "A mask with one slice for each sequence and head works in training and breaks in evaluation (pytorch #97409, "
    "#97605)",
    16: "The mask is repeated for the heads in an order in which sequences get each other's "
    "(attention-is-all-you-need-keras #36)",
    17: "Scores are scaled by the width of the model and not of a head (vit-pytorch #65)",
    18: "Scores are divided by a number that already was one over the root (perceiver-io #9)",
    19: "The compiler forgets a scale that was asked for (pytorch #174049)",
    20: "The compiler takes a permuted key for the usual one (pytorch #195320)",
    21: "The softmax runs over the wrong axis, and training looks normal (labml #146; detr #247)",
    22: "Heads are split or joined by a reshape without the transpose, and the training test passes (FuxiCTR #30; "
    "transformer-from-scratch PR #6)",
    23: "Fewer key heads are repeated as a tile, where the query heads expect them in runs (onnx PR #7274; axlearn PR "
    "#842)",
    24: "Strided or expanded inputs are read as if they were contiguous, in the output or in a gradient (pytorch "
    "#112577, #181133; flash-attn #355)",
    25: "Heads of an odd width are filled up with memory that nobody wrote (flashinfer #4299; exllamav3 PR #316)",
    26: "Dropout goes on in evaluation (timm PR #1978; torchtune #1791; pytorch #124464)",
    27: "One evaluation sets the dropout rate to 0 for good (Megatron-LM PR #411)",
    28: "The backward pass scales what dropout kept by the wrong number (apex PR #816)",
    29: "A sliding window is one key too long or too short (transformers #39408, #29623; vllm #3385)",
    30: "Rotary angles are laid out for one pairing of the columns and applied to the other (how-to-train-your-gpt #6)",
    31: "A cache of positions answers for another offset, width or base than it was filled for "
    "(rotary-embedding-torch #11; mlx PR #561)",
    32: "Positions, angles or tables are computed in half precision (gpt-neox #1003; Modalities PR #462)",
    33: "The sinusoidal table is off by a bracket, fails for an odd width or lies along the wrong axis "
    "(LoFTR #41; BERT-pytorch #78; neuracore PR #154)",
    34: "NaN in keys that are masked leaks into the output (pytorch #101967)",
}
"""Row -> the bug in words, with its threads."""

SYNONYMS: dict[str, dict[str, str]] = {
    "mask_not_passed_to_the_heads": {
        "mask_ignored": "a module that does not pass its mask on is one that ignores it: no question tells them apart"
    },
    "module_with_the_scale_of_the_model_width": {
        "scale_of_the_model_width": "the same scale, with projections around it"
    },
    "eval_ignores_the_mask": {
        "mask_ignored": "in evaluation, where most questions are asked, it does; `train_equals_eval` says the rest"
    },
    "eval_ignores_causal": {
        "no_causal": "in evaluation, where most questions are asked, it is; `train_equals_eval` says the rest"
    },
    "fast_path_nan_in_eval": {"nan_on_empty_rows": "in evaluation it is; the failure says in which mode it was seen"},
}
"""Mutant -> other names that a report may give it -> why they are right too."""

NEEDS: dict[str, str] = {
    "gradient numbers": "gradients that can be compared with the definition's",
    "any mask": "an argument for a mask or for padding",
    "base": "a constructor that takes the base",
    "batch": "more than one sequence a call",
    "bias": "an argument for a bias",
    "both": "queries and keys in one call",
    "causal": "a causal option, or to be always causal",
    "combined": "a mask and causal that can be asked for together",
    "dropout": "dropout",
    "float64": "float64 inputs",
    "function": "a function of query, key and value",
    "gradients": "tensors that can be differentiated",
    "grouped": "fewer key heads than query heads",
    "lengths": "as many keys as one likes, beside the queries",
    "limit": "a number of positions that can be exceeded",
    "module": "a module",
    "not causal": "not to be always causal",
    "numbers": "an answer that the definition can give: a function's, or a module's whose projections are found",
    "order": "no positions added inside",
    "padding": "an argument for padding, or masks that differ between sequences",
    "per head": "masks that differ between heads",
    "per sequence": "masks that differ between sequences",
    "scale": "an argument for the scale",
    "softcap": "an argument for a softcap",
    "start": "positions or an offset as an argument",
    "strides": "tensors, not arrays",
    "sum": "to add its table to x",
    "uniform": "a mask (L, S)",
    "value_width": "values of a width of their own",
    "weights": "to return its weights",
    "weights option": "an argument that asks for the weights",
    "widths": "heads of any width",
    "window": "an argument for a window",
}
"""Feature -> what a subject must offer."""

SHARED: dict[str, str] = {
    "Answers": "it is asked first, and says why later comparisons fail",
    "requires_grad_changes_nothing": "it asks the same question with and without gradients; elsewhere the consequence "
    "shows",
    "matches_definition": "it is the plain question, before all others",
    "Numbers": "a failure at its sizes or scales alone narrows the bug down",
    "Algebra": "it needs no oracle: it would still stand if the definition and the subject shared a mistake",
    "Sequences and heads": "it is decided by intervention, to the bit, and says which sequence or head leaks",
    "uses_context": "it needs no numbers: a module whose projections are not found can be asked it",
    "Masks": "it is asked in its own form of mask, and a subject may take that form alone",
    "Empty rows": "it is asked on rows that other properties leave out",
    "Causality": "it is decided by intervention, to the bit, and says which key was read",
    "Weights": "it says that asking for the weights is the cause",
    "Gradients": "whatever is wrong in the output is wrong in the gradient; it is there for what the output hides",
    "Training and dropout": "it is asked in the other mode of a module",
    "many_sizes": "it is a longer form of any_sizes, and runs only where it is asked for (`thorough=True`)",
    "very_long_inputs": "it is a longer form of long_inputs, and runs only where it is asked for (`thorough=True`)",
    "Any sizes": "its sizes are not those of its author's tests",
    "Compiler": "it runs only where it is asked for (`thorough=True`), and this record does not ask",
    "table_formula": "it is the comparison with the formula, and asks for neither odd widths nor a sum",
    "rotary_angles": "it is the comparison with the formula, and asks for no far positions",
    "Table": "it names one cause, where the comparison with the formula says that the table is another",
    "Sum": "it is asked of the sum, where the table may be right",
    "Rotation": "it holds whatever pairing and base are meant: no convention has to be known",
    "What comes back": "it names one cause, where the comparison of angles says that they are others",
}
"""Property or group -> why a property is kept whose every mutant another property kills too."""


def linked(text: str) -> str:
    """Markdown with a link wherever a public thread is named and its repository is known."""

    def link(found: re.Match[str]) -> str:
        name, pull, number, more = found.groups()
        if name not in REPOSITORIES:
            return found[0]
        place = f"https://github.com/{REPOSITORIES[name]}"
        first = f"[{name}{pull or ''} #{number}]({place}/{'pull' if pull else 'issues'}/{number})"
        return first + re.sub(r"#(\d+)", rf"[#\1]({place}/issues/\1)", more)

    return THREADS.sub(link, text)
