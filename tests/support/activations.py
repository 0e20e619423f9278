"""Activation functions as people write them in torch, with the thresholds of their gates."""

import torch
import torch.nn.functional as F
from torch import nn

SAMPLES, FEATURES, UNITS = 8, 4, 10


ZERO = [(0, False)]


RELU6 = [(0, False), (6, True)]


HARD = [(-3, False), (3, True)]
SHRINK = [(-0.5, True), (0.5, False)]


class Before(nn.Module):
    """A linear layer, then `activation`, then something that nothing is tracked of."""

    def __init__(self, activation):
        super().__init__()
        self.fc = nn.Linear(FEATURES, UNITS)
        self.activation = activation

    def forward(self, x):
        return torch.tanh(self.activation(self.fc(x)))


ACTIVATIONS = {
    "ReLU": (nn.ReLU(), ZERO, "relu"),
    "ReLU in place": (nn.ReLU(inplace=True), ZERO, "relu"),
    "F.relu": (F.relu, ZERO, "relu"),
    "ReLU, squared": (lambda x: F.relu(x) ** 2, ZERO, "relu"),
    "clamp(min=0)": (lambda x: x.clamp(min=0), ZERO, "piecewise"),
    "clamp_min": (lambda x: x.clamp_min(0), ZERO, "piecewise"),
    "maximum": (lambda x: torch.maximum(x, torch.zeros_like(x)), ZERO, "piecewise"),
    "maximum with a number": (lambda x: torch.maximum(x, torch.tensor(0.0)), ZERO, "piecewise"),
    "where": (lambda x: torch.where(x > 0, x, 0.0), ZERO, "piecewise"),
    "where, mirrored": (lambda x: torch.where(x < 0, 0.0, x), ZERO, "piecewise"),
    "where, leaky": (lambda x: torch.where(x > 0, x, 0.1 * x), ZERO, "piecewise"),
    "masked_fill": (lambda x: x.masked_fill(x < 0, 0), ZERO, "piecewise"),
    "x * (x > 0)": (lambda x: x * (x > 0), ZERO, "piecewise"),
    "abs": (torch.abs, ZERO, "piecewise"),
    "LeakyReLU": (nn.LeakyReLU(0.1), ZERO, "piecewise"),
    "PReLU": (nn.PReLU(), ZERO, "piecewise"),
    "PReLU per unit": (nn.PReLU(UNITS), ZERO, "piecewise"),
    "Threshold": (nn.Threshold(0.25, 20.0), [(0.25, False)], "piecewise"),
    "ReLU6": (nn.ReLU6(), RELU6, "piecewise"),
    "clamp(0, 6)": (lambda x: x.clamp(0, 6), RELU6, "piecewise"),
    "minimum of relu": (lambda x: torch.minimum(F.relu(x), torch.tensor(6.0)), RELU6, "piecewise"),
    "Hardtanh": (nn.Hardtanh(), [(-1, False), (1, True)], "piecewise"),
    "Hardsigmoid": (nn.Hardsigmoid(), HARD, "piecewise"),
    "Hardshrink": (nn.Hardshrink(), SHRINK, "piecewise"),
    "Softshrink": (nn.Softshrink(), SHRINK, "piecewise"),
    "Hardswish": (nn.Hardswish(), HARD, "smooth"),
    "Hardswish of hardsigmoid": (lambda x: x * F.hardsigmoid(x), HARD, "piecewise"),
    "ELU": (nn.ELU(), ZERO, "smooth"),
    "SELU": (nn.SELU(), ZERO, "smooth"),
    "CELU": (nn.CELU(1.5), ZERO, "smooth"),
    "Softplus": (nn.Softplus(), ZERO, "smooth"),
    "Softplus with a slope": (nn.Softplus(2, 5), ZERO, "smooth"),
    "GELU": (nn.GELU(), ZERO, "smooth"),
    "GELU by tanh": (nn.GELU("tanh"), ZERO, "smooth"),
    "GELU of BERT": (lambda x: x * 0.5 * (1.0 + torch.erf(x / 2**0.5)), ZERO, "smooth"),
    "GELU of GPT-2": (
        lambda x: 0.5 * x * (1.0 + torch.tanh(0.7978845608 * (x + 0.044715 * torch.pow(x, 3.0)))),
        ZERO,
        "smooth",
    ),
    "QuickGELU": (lambda x: x * torch.sigmoid(1.702 * x), ZERO, "smooth"),
    "SiLU": (nn.SiLU(), ZERO, "smooth"),
    "Mish": (nn.Mish(), ZERO, "smooth"),
    "Mish by hand": (lambda x: x * torch.tanh(F.softplus(x)), ZERO, "smooth"),
    "Mish of log1p": (lambda x: x * torch.tanh(torch.log1p(torch.exp(x))), ZERO, "smooth"),
}
