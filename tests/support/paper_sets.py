"""Small data sets of every kind that the networks of the paper take, and files of data sets in their own layouts."""

import io

import numpy as np
from PIL import Image

from regime_proto.examples.paper.data.sets import IGNORED, DataSet

VOCABULARY = 300
SAMPLES = 16


def generator():
    return np.random.default_rng(0)


def _whole(part, classes, **facts):
    return DataSet("made up", "this test", part, part, classes, facts=facts)


def images(size, classes=10, channels=3):
    draw = generator()
    part = {
        "x": draw.integers(0, 256, (SAMPLES, channels, size, size), dtype=np.uint8),
        "labels": draw.integers(0, classes, SAMPLES),
    }
    made = _whole(part, classes, channels=channels, image_size=size)
    return DataSet(**{**vars(made), "mean": (0.5,) * channels, "deviation": (0.25,) * channels})


def _texts(tokens, size, vocabulary):
    ids = generator().integers(5, vocabulary, (size, tokens))
    mask = np.ones((size, tokens), np.int64)
    # The first half of them is shorter.
    mask[: size // 2, tokens // 2 :] = 0
    return {"input_ids": ids * mask, "attention_mask": mask}


def texts(tokens, classes=2, size=SAMPLES, vocabulary=VOCABULARY):
    labels = generator().integers(0, classes, size)
    return _whole({**_texts(tokens, size, vocabulary), "labels": labels}, classes, tokens=tokens, vocabulary=vocabulary)


def questions(tokens, answer_tokens=4, size=SAMPLES, vocabulary=VOCABULARY):
    written = generator().integers(5, vocabulary, (size, answer_tokens))
    labels = written.copy()
    labels[:, -1] = IGNORED
    part = {**_texts(tokens, size, vocabulary), "decoder_input_ids": written, "labels": labels}
    return _whole(part, vocabulary, tokens=tokens, answer_tokens=answer_tokens, vocabulary=vocabulary)


def windows(tokens, size=SAMPLES, vocabulary=VOCABULARY):
    ids = generator().integers(5, vocabulary, (size, tokens + 1))
    part = {"input_ids": ids[:, :-1], "labels": ids[:, 1:]}
    return _whole(part, vocabulary, tokens=tokens, vocabulary=vocabulary)


def features(count, classes=2):
    draw = generator()
    part = {"x": draw.normal(size=(SAMPLES, count)).astype(np.float32), "labels": draw.integers(0, classes, SAMPLES)}
    return _whole(part, classes, features=count)


def encoded(size=(8, 6), color=(200, 100, 50), kind="JPEG", mode="RGB"):
    """Return an image of one color in a file format."""
    file = io.BytesIO()
    Image.new(mode, size, color).save(file, kind)
    return file.getvalue()
