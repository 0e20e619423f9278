"""Networks built by transformers from a configuration, with random weights and ReLU.

Sizes are those of the published models. A smaller width reduces the number of channels; if there are several heads, it
reduces their number and keeps their size. Depth and dropout stay the same.
"""

from typing import Any

import transformers
from torch import Tensor, nn

from regime_proto.examples.paper.data.sets import DataSet
from regime_proto.examples.paper.data.words import PAD, START
from regime_proto.examples.paper.models.size import scaled

_HEAD = 64


class OfImages(nn.Module):  # type: ignore[misc]
    """A classifier of images.

    Parameters
    ----------
    network : PreTrainedModel
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits."""
        return self.network(pixel_values=x).logits


class OfTexts(nn.Module):  # type: ignore[misc]
    """A classifier of texts.

    Parameters
    ----------
    network : PreTrainedModel
    options : Any
        Arguments of its forward method.
    """

    def __init__(self, network: nn.Module, **options: Any) -> None:
        super().__init__()
        self.network = network
        self.options = options

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Return the logits."""
        return self.network(input_ids=input_ids, attention_mask=attention_mask, **self.options).logits


class OfWindows(nn.Module):  # type: ignore[misc]
    """A language model, for texts of equal length.

    Parameters
    ----------
    network : PreTrainedModel
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, input_ids: Tensor) -> Tensor:
        """Return the logits of the next token, for each token."""
        return self.network(input_ids=input_ids, use_cache=False).logits


class OfQuestions(nn.Module):  # type: ignore[misc]
    """A model that generates a text from another text.

    Parameters
    ----------
    network : PreTrainedModel
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, input_ids: Tensor, attention_mask: Tensor, decoder_input_ids: Tensor) -> Tensor:
        """Return the logits of the next token, for each token of the generated text."""
        return self.network(
            input_ids=input_ids, attention_mask=attention_mask, decoder_input_ids=decoder_input_ids, use_cache=False
        ).logits


def resnet34(data: DataSet, width: float) -> OfImages:
    """Return ResNet-34 (He et al. 2016), with the usual first layer for small images."""
    sizes = [scaled(size, width) for size in (64, 128, 256, 512)]
    config = transformers.ResNetConfig(
        num_channels=data.facts["channels"],
        embedding_size=sizes[0],
        hidden_sizes=sizes,
        depths=[3, 4, 6, 3],
        layer_type="basic",
        hidden_act="relu",
        num_labels=data.classes,
    )
    network = transformers.ResNetForImageClassification(config)
    stem = network.resnet.embedder
    stem.embedder.convolution = nn.Conv2d(data.facts["channels"], sizes[0], 3, padding=1, bias=False)
    nn.init.kaiming_normal_(stem.embedder.convolution.weight, mode="fan_out", nonlinearity="relu")
    stem.pooler = nn.Identity()
    return OfImages(network)


def efficientnet_b0(data: DataSet, width: float) -> OfImages:
    """Return EfficientNet-B0 (Tan and Le 2019)."""
    config = transformers.EfficientNetConfig(
        num_channels=data.facts["channels"],
        image_size=data.facts["image_size"],
        width_coefficient=width,
        depth_coefficient=1.0,
        hidden_dim=_filters(1280, width),
        hidden_act="relu",
        # The library's 0.99 is TensorFlow's, which weights the old average; PyTorch weights the new value.
        batch_norm_momentum=0.01,
        dropout_rate=0.2,
        num_labels=data.classes,
    )
    network = transformers.EfficientNetForImageClassification(config)
    # The library expects weights to be loaded: its initial values, including those of normalisation, are near zero.
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out")
        elif isinstance(module, nn.BatchNorm2d):
            nn.init.ones_(module.weight)
    return OfImages(network)


def _filters(channels: int, width: float, divisor: int = 8) -> int:
    """Return a number of channels rounded as in EfficientNet: to a multiple of 8, at most 10 % down."""
    rounded = max(divisor, int(channels * width + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * channels * width else rounded


def vit_b16(data: DataSet, width: float) -> OfImages:
    """Return ViT-B/16 (Dosovitskiy et al. 2021)."""
    heads = scaled(12, width)
    config = transformers.ViTConfig(
        num_channels=data.facts["channels"],
        image_size=data.facts["image_size"],
        patch_size=16,
        hidden_size=_HEAD * heads,
        num_attention_heads=heads,
        intermediate_size=4 * _HEAD * heads,
        hidden_act="relu",
        num_labels=data.classes,
    )
    return OfImages(transformers.ViTForImageClassification(config))


def swin(data: DataSet, width: float) -> OfImages:
    """Return Swin, tiny (Liu et al. 2021); its heads have 32 channels."""
    heads = scaled(3, width)
    config = transformers.SwinConfig(
        num_channels=data.facts["channels"],
        image_size=data.facts["image_size"],
        embed_dim=32 * heads,
        num_heads=[heads, 2 * heads, 4 * heads, 8 * heads],
        depths=[2, 2, 6, 2],
        # 7 at the published size of 224: windows are no larger than the last layer's image.
        window_size=min(7, data.facts["image_size"] // 32),
        hidden_act="relu",
        num_labels=data.classes,
    )
    return OfImages(transformers.SwinForImageClassification(config))


def pvt(data: DataSet, width: float) -> OfImages:
    """Return the pyramid vision transformer, small (Wang et al. 2021); with a smaller width, heads become smaller."""
    heads = [1, 2, 5, 8]
    config = transformers.PvtConfig(
        num_channels=data.facts["channels"],
        image_size=data.facts["image_size"],
        hidden_sizes=[scaled(_HEAD, width) * count for count in heads],
        num_attention_heads=heads,
        depths=[3, 4, 6, 3],
        hidden_act="relu",
        num_labels=data.classes,
    )
    return OfImages(transformers.PvtForImageClassification(config))


def xlnet(data: DataSet, width: float) -> OfTexts:
    """Return XLNet, base (Yang et al. 2019); it classifies by the first token."""
    heads = scaled(12, width)
    config = transformers.XLNetConfig(
        vocab_size=data.facts["vocabulary"],
        d_model=_HEAD * heads,
        n_head=heads,
        n_layer=12,
        d_inner=4 * _HEAD * heads,
        ff_activation="relu",
        summary_type="first",
        pad_token_id=PAD,
        bos_token_id=START,
        num_labels=data.classes,
    )
    return OfTexts(transformers.XLNetForSequenceClassification(config), use_mems=False)


def roberta(data: DataSet, width: float) -> OfTexts:
    """Return RoBERTa, base (Liu et al. 2019)."""
    heads = scaled(12, width)
    config = transformers.RobertaConfig(
        vocab_size=data.facts["vocabulary"],
        hidden_size=_HEAD * heads,
        num_attention_heads=heads,
        num_hidden_layers=12,
        intermediate_size=4 * _HEAD * heads,
        # Positions start after the index of the padding token.
        max_position_embeddings=data.facts["tokens"] + PAD + 1,
        type_vocab_size=1,
        hidden_act="relu",
        pad_token_id=PAD,
        bos_token_id=START,
        num_labels=data.classes,
    )
    return OfTexts(transformers.RobertaForSequenceClassification(config))


def t5(data: DataSet, width: float) -> OfQuestions:
    """Return T5, small (Raffel et al. 2020)."""
    heads = scaled(8, width)
    config = transformers.T5Config(
        vocab_size=data.facts["vocabulary"],
        d_model=_HEAD * heads,
        num_heads=heads,
        num_layers=6,
        d_ff=4 * _HEAD * heads,
        feed_forward_proj="relu",
        pad_token_id=PAD,
        decoder_start_token_id=PAD,
    )
    return OfQuestions(transformers.T5ForConditionalGeneration(config))


def gpt2(data: DataSet, width: float) -> OfWindows:
    """Return GPT-2 with 12 layers (Radford et al. 2019)."""
    heads = scaled(12, width)
    config = transformers.GPT2Config(
        vocab_size=data.facts["vocabulary"],
        n_positions=data.facts["tokens"],
        n_embd=_HEAD * heads,
        n_head=heads,
        n_layer=12,
        activation_function="relu",
        bos_token_id=START,
        eos_token_id=START,
    )
    return OfWindows(transformers.GPT2LMHeadModel(config))
