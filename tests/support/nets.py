"""Networks that the tests train: between them every way a ReLU of torch gets into a graph by itself."""

import nets
import torch
import torch.nn.functional as F
from torch import nn


class Mlp(nn.Module):
    def __init__(self, width=32):
        super().__init__()
        self.body = nn.Sequential(
            nn.Linear(12, width), nn.BatchNorm1d(width), nn.ReLU(), nn.Dropout(0.3),
            nn.Linear(width, 20), nn.BatchNorm1d(20), nn.ReLU(), nn.Dropout(0.3),
            nn.Linear(20, 3),
        )  # fmt: skip

    def forward(self, features):
        return self.body(features)


class ConvNet(nn.Module):
    """One ReLU module used twice, and a functional ReLU; a parameter that is never used."""

    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(1, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.conv2 = nn.Conv2d(4, 5, 3, stride=2)
        self.act = nn.ReLU()
        self.fc = nn.Linear(5 * 9, 11)
        self.head = nn.Linear(11, 3)
        self.unused = nn.Parameter(torch.zeros(2))

    def forward(self, image):
        hidden = self.act(self.norm(self.conv1(image)))
        hidden = self.act(self.conv2(hidden))
        return self.head(F.relu(self.fc(hidden.flatten(1))))


class Encoder(nn.Module):
    """A transformer layer whose feed-forward is (token, sample, unit): the sample axis is not the first."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Linear(6, 16)
        self.layer = nn.TransformerEncoderLayer(16, 2, 24, dropout=0.1, batch_first=False)
        self.head = nn.Linear(16, 3)

    def forward(self, tokens):
        hidden = self.layer(self.embed(tokens).transpose(0, 1))
        return self.head(hidden.mean(0))


SHAPES = {Mlp: (12,), ConvNet: (1, 8, 8), Encoder: (5, 6)}


def make_mlp():
    torch.manual_seed(0)
    return Mlp()


def make_conv():
    torch.manual_seed(0)
    return ConvNet()


def make_encoder():
    torch.manual_seed(0)
    return Encoder()


def raises():
    raise ValueError("no such\nsize")


def no_gate():
    return nn.Sequential(nn.Linear(12, 4), nn.Tanh(), nn.Linear(4, 2))


def returns_text():
    return "not a model"


not_callable = 5


def train(model, states=8, samples=64, seed=0):
    """Yield the model after every step, the initial state first."""
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(samples, *SHAPES[type(model)], generator=generator)
    labels = torch.randint(0, 3, (samples,), generator=generator)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    torch.manual_seed(seed)
    model.train()
    yield model
    for _ in range(states - 1):
        loss = F.cross_entropy(model(inputs), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        yield model


def probe(model, samples=6, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(samples, *SHAPES[type(model)], generator=generator).numpy()


def save_run(folder, model, states=8, name="step_{:04d}.pt"):
    """Save a state after every training step; return the states."""
    folder.mkdir(parents=True, exist_ok=True)
    saved = []
    for step, trained in enumerate(nets.train(model, states)):
        state = {key: value.clone() for key, value in trained.state_dict().items()}
        torch.save(
            {"model": state, "step": step, "epoch": step / 4, "loss": 1.0 / (step + 1)}, folder / name.format(step)
        )
        saved.append(state)
    return saved
