"""The eighteen rows of Table II: what the paper states about each, and our choices where it states nothing."""

from dataclasses import dataclass

from regime_proto.comparison.rows import Row as Published
from regime_proto.comparison.rows import published
from regime_proto.schema.errors import RegimeError
from regime_proto.schema.nearest import did_you_mean

# Choices for every row where the paper states nothing.
CHOICES = (
    "batch size: not stated; 64, and 32 or 16 for large networks",
    "momentum: none if not stated",
    "epochs: at most the published number; batches have equal size, and an incomplete last batch is dropped",
    "early stopping: after a third of these epochs without any decrease of the validation loss (paper: 1 % or 0 %)",
    "validation samples: the official test split, otherwise a fifth of the samples of each class",
    "images: scaled by mean and deviation of each channel, not augmented",
)


@dataclass(frozen=True)
class Row:
    """One training of the paper.

    Parameters
    ----------
    name : str
        Name of the row in this package.
    number : int
        Position in Table II, from 1.
    network : str
        Key of `models.build.NETWORKS`.
    data : str
        Key of `data.sets.SOURCES`: the data set that the paper names.
    optimizer : {"SGD", "Adam", "AdamW"}
    learning_rate, weight_decay : float
    epochs : int
    gates, units : int
        Number of ReLUs of the network, and of their units for one sample of the published data set, at the default
        size.
    momentum : float
    nesterov : bool
    batch_size : int
        Our choice, because the paper does not state it.
    choices : tuple of str
        Our further choices where the paper states nothing.
    """

    name: str
    number: int
    network: str
    data: str
    optimizer: str
    learning_rate: float
    weight_decay: float
    epochs: int
    gates: int
    units: int
    momentum: float = 0.0
    nesterov: bool = False
    batch_size: int = 64
    choices: tuple[str, ...] = ()

    @property
    def published(self) -> Published:
        """The row of Table II."""
        return published()[self.number - 1]


_MLP = ("each hidden layer: linear, BatchNorm, ReLU, dropout", "dropout: 0.5")
_PLAIN = ("each hidden layer: linear, BatchNorm, ReLU",)
_LENET = ("max-pooling; 28 × 28 images are padded by 2",)
_ALEXNET = ("image sizes inside: 16, 8, 4 and 2 pixels per side, as usual for images of 32 pixels", "dropout: 0.5")
_RESNET = ("images: original size", "first convolution: 3 × 3 with stride 1, no pooling after it")
_EFFICIENTNET = (
    "images: original size; the first convolution has stride 2",
    "activations: ReLU instead of SiLU everywhere; the sigmoid of squeeze-and-excitation is kept",
    "initial weights: He's, and 1 for BatchNorm",
)
_TRANSFORMER = (
    "activations: ReLU in the feed-forward layers",
    "initial weights: random, not pre-trained",
)
_TOKENS = (*_TRANSFORMER, "tokens: the 8,192 most common words of the training text")
_VISION = (*_TRANSFORMER, "images: resized to 224 × 224")

ROWS = (
    Row("mlp-adult", 1, "mlp-256-128-64", "Adult", "Adam", 1e-2, 1e-4, 15, 3, 448, choices=_MLP),
    Row("mlp-breast-cancer", 2, "mlp-64-32", "Breast Cancer", "SGD", 1e-2, 1e-4, 18, 2, 96, choices=_MLP),
    Row("mlp-har", 3, "mlp-512-256-plain", "HAR", "SGD", 1e-2, 1e-4, 15, 2, 768, choices=_PLAIN),
    Row("mlp-mnist", 4, "mlp-256-128", "MNIST", "SGD", 1e-2, 1e-4, 15, 2, 384, choices=_MLP),
    Row("lenet5-mnist", 5, "lenet5", "MNIST", "SGD", 1e-2, 1e-4, 25, 4, 6508, choices=_LENET),
    Row("lenet5-cifar10", 6, "lenet5", "CIFAR10", "Adam", 1e-3, 1e-4, 29, 4, 6508, choices=_LENET),
    Row("alexnet-cifar100", 7, "alexnet", "CIFAR100", "SGD", 1e-3, 1e-3, 146, 7, 51_200, choices=_ALEXNET),
    Row("resnet34-cifar100", 8, "resnet34", "CIFAR100", "Adam", 1e-2, 1e-4, 101, 33, 966_656, choices=_RESNET),
    Row(
        "resnet34-tinyimagenet", 9, "resnet34", "TinyImageNet", "SGD", 1e-3, 5e-3, 64, 33, 3_866_624,
        momentum=0.9, nesterov=True, choices=_RESNET,
    ),
    Row(
        "efficientnet-cifar100", 10, "efficientnet-b0", "CIFAR100", "AdamW", 2e-2, 1e-3, 159, 49, 126_044,
        choices=_EFFICIENTNET,
    ),
    Row(
        "efficientnet-tinyimagenet", 11, "efficientnet-b0", "TinyImageNet", "AdamW", 2e-2, 1e-3, 113, 49, 503_036,
        choices=_EFFICIENTNET,
    ),
    Row(
        "xlnet-sst2", 12, "xlnet", "SST-2", "AdamW", 2e-5, 1e-2, 4, 12, 2_359_296, batch_size=16,
        choices=(*_TOKENS, "64 tokens per sentence; the class is read at the first token (bidirectional attention)"),
    ),
    Row(
        "roberta-agnews", 13, "roberta", "AG News", "AdamW", 2e-5, 1e-2, 5, 12, 4_718_592, batch_size=16,
        choices=(*_TOKENS, "128 tokens of title and description"),
    ),
    Row(
        "t5-squad", 14, "t5", "SQuAD", "AdamW", 1e-4, 1e-2, 6, 12, 1_671_168, batch_size=16,
        choices=(
            *_TOKENS, "size: small, 60 million parameters with its own tokens",
            "128 tokens of question and the beginning of the context, 8 of the answer",
            "score: fraction of answer tokens predicted correctly, given the tokens before",
        ),
    ),
    Row(
        "gpt2-wikitext", 15, "gpt2", "WikiText", "AdamW", 3e-4, 1e-2, 6, 12, 4_718_592, batch_size=16,
        choices=(*_TOKENS, "size: 12 layers, 124 million parameters with its own tokens", "128 tokens per window"),
    ),
    Row(
        "vit-cifar100", 16, "vit-b16", "CIFAR100", "AdamW", 1e-4, 5e-2, 50, 12, 7_262_208, batch_size=32,
        choices=_VISION,
    ),
    Row(
        "swin-food101", 17, "swin", "Food-101", "AdamW", 1e-4, 5e-2, 50, 12, 5_720_064, batch_size=32,
        choices=(*_VISION, "size: tiny"),
    ),
    Row(
        "pvt-tinyimagenet", 18, "pvt", "TinyImageNet", "AdamW", 5e-4, 5e-2, 50, 16, 9_840_640, batch_size=32,
        choices=(*_VISION, "size: small"),
    ),
)  # fmt: skip


def row_called(name: str) -> Row:
    """Return the row with a given name, or with a number from 1 to 18.

    Raises
    ------
    RegimeError
        The row does not exist.
    """
    known = {row.name: row for row in ROWS} | {str(row.number): row for row in ROWS}
    if name not in known:
        raise RegimeError(
            f"row {name}: not one of the eighteen{did_you_mean(name, [row.name for row in ROWS])}; "
            "python -m regime_proto.examples.paper list shows them"
        )
    return known[name]
