"""Models, checkpoints and tokenizers of transformers."""

import numpy as np
import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers

from regime_proto.program.probe import COUNTED

WORDS = ["the", "quick", "brown", "fox", "lazy", "dog", "runs", "away", "a", "big", "red", "cat"]
TEXT = "the quick brown fox\n\n  lazy dog  \na big red cat runs away\n"
TOKENS = 9
IDS = np.random.default_rng(0).integers(3, 90, (4, TOKENS))
ATTENTION = np.arange(TOKENS) < np.array([[9], [9], [6], [3]])
WRITTEN = {"input_ids": IDS, "attention_mask": ATTENTION.astype(np.int64), COUNTED: ATTENTION}
IMAGES = {"pixel_values": np.random.default_rng(0).normal(size=(4, 3, 32, 32)).astype(np.float32)}


GPT2 = {
    "n_layer": 2, "n_head": 2, "n_embd": 16, "vocab_size": 100, "n_positions": 32, "bos_token_id": 1,
    "eos_token_id": 1, "activation_function": "relu",
}  # fmt: skip


BERT = {
    "num_hidden_layers": 1, "num_attention_heads": 2, "hidden_size": 16, "intermediate_size": 24, "hidden_act": "relu",
}  # fmt: skip


# Class of the model, its config, probe; the axis of the samples in what its ReLUs are given.
MODELS = {
    "gpt2": ("GPT2LMHeadModel", GPT2, WRITTEN, 0),
    "opt": (
        "OPTForCausalLM",
        {
            "num_hidden_layers": 1, "num_attention_heads": 2, "hidden_size": 16, "ffn_dim": 24, "vocab_size": 100,
            "max_position_embeddings": 32, "word_embed_proj_dim": 16, "activation_function": "relu",
        },
        WRITTEN, 0,
    ),
    "roberta": ("RobertaForMaskedLM", {**BERT, "vocab_size": 100, "max_position_embeddings": 32}, WRITTEN, 0),
    "xlnet": (
        "XLNetForSequenceClassification",
        {"n_layer": 1, "n_head": 2, "d_model": 16, "d_inner": 24, "vocab_size": 100, "ff_activation": "relu"},
        WRITTEN, 1,
    ),
    "t5": (
        "T5ForConditionalGeneration",
        {
            "num_layers": 1, "num_decoder_layers": 1, "num_heads": 2, "d_model": 16, "d_kv": 8, "d_ff": 24,
            "vocab_size": 100, "feed_forward_proj": "relu", "decoder_start_token_id": 0,
        },
        {**WRITTEN, "decoder_input_ids": IDS}, 0,
    ),
    "vit": ("ViTForImageClassification", {**BERT, "image_size": 32, "patch_size": 8}, IMAGES, 0),
    "swin": (
        "SwinForImageClassification",
        {
            "depths": [1, 2], "num_heads": [2, 2], "embed_dim": 16, "image_size": 32, "patch_size": 2,
            "window_size": 4, "hidden_act": "relu",
        },
        IMAGES, 0,
    ),
    "pvt": (
        "PvtForImageClassification",
        {
            "image_size": 32, "depths": [1, 1], "num_encoder_blocks": 2, "hidden_sizes": [8, 16],
            "num_attention_heads": [1, 2], "sequence_reduction_ratios": [2, 1], "patch_sizes": [4, 2],
            "strides": [4, 2], "mlp_ratios": [2, 2], "hidden_act": "relu",
        },
        IMAGES, 0,
    ),
    "resnet": (
        "ResNetForImageClassification",
        {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 2], "layer_type": "basic", "hidden_act": "relu"},
        IMAGES, 0,
    ),
    "efficientnet": (
        "EfficientNetForImageClassification",
        {
            "image_size": 32, "width_coefficient": 0.25, "depth_coefficient": 0.3, "hidden_dim": 320,
            "in_channels": [32, 16, 24], "out_channels": [16, 24, 40], "kernel_sizes": [3, 3, 5],
            "strides": [1, 2, 2], "num_block_repeats": [1, 2, 2], "expand_ratios": [1, 6, 6], "hidden_act": "relu",
            "depthwise_padding": [],
        },
        IMAGES, 0,
    ),
}  # fmt: skip


def make(name="gpt2", **changes):
    kind, settings, *_ = MODELS[name]
    made = getattr(transformers, kind)
    torch.manual_seed(0)
    return made(made.config_class(**{**settings, **changes}))


def perturbed(model, seed):
    """Change weights and running statistics, as a training step would."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for tensor in (*model.parameters(), *model.buffers()):
            if tensor.is_floating_point():
                tensor.add_(0.05 * torch.randn(tensor.shape, generator=generator))
        for name, tensor in model.named_buffers():
            if name.endswith("running_var"):
                tensor.abs_()


def save_steps(root, model, steps=(0, 1, 2), **how):
    for step in steps:
        perturbed(model, step)
        model.save_pretrained(root / f"step{step}", **how)


def tokenizer_saved(folder, **tokens):
    vocabulary = {"<unk>": 0, "<eos>": 1, **{word: index + 2 for index, word in enumerate(WORDS)}}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    fast = transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", **tokens)
    fast.save_pretrained(folder)
    return fast
