"""SQuAD 1.1: questions about Wikipedia articles; replaced by cloze questions on speeches if unavailable."""

import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from regime_proto.examples.paper.data import arrow_files
from regime_proto.examples.paper.data.addresses import PACKAGE, addresses
from regime_proto.examples.paper.data.arrow_files import read_split, texts_of
from regime_proto.examples.paper.data.files import require
from regime_proto.examples.paper.data.sets import DataSet
from regime_proto.examples.paper.data.tables import text_of
from regime_proto.examples.paper.data.texts import Question, questions
from regime_proto.examples.paper.data.words import split
from regime_proto.schema.errors import RegimeError

LAYOUT = f"train-v1.1.json and dev-v1.1.json, {arrow_files.LAYOUT}"
_SENTENCE = re.compile(r"(?<=[.!?;:])\s+")
# Number of words of a sentence with a gap, and of its context.
_ASKED = range(8, 25)
_CONTEXT = 90
# Words are not used as answers if they are too common, or too rare to be in the vocabulary.
_COMMON, _KNOWN = 200, 4000


def packaged() -> DataSet:
    """Return cloze questions: a sentence of an address with a gap, its context, and the missing word."""
    train, validation = addresses()
    counts = Counter(word for text in train for word in split(text))
    asked_for = {word for word, _ in counts.most_common(_KNOWN)[_COMMON:] if len(word) > 3 and word.isalpha()}
    generator = np.random.default_rng(0)
    parts = [[one for text in texts for one in _gaps(text, asked_for, generator)] for texts in (train, validation)]
    return questions(*parts, name="cloze of State of the Union", origin=str(PACKAGE), stands_for="SQuAD")


def _gaps(text: str, asked_for: set[str], generator: np.random.Generator) -> Iterator[Question]:
    """Yield a question for each context, which is a sequence of sentences; one of them has the gap."""
    context: list[list[str]] = []
    for sentence in [*map(split, _SENTENCE.split(text)), []]:
        if context and (not sentence or sum(map(len, context)) + len(sentence) > _CONTEXT):
            question = _gap(context, asked_for, generator)
            if question is not None:
                yield question
            context = []
        context.append(sentence)


def _gap(context: list[list[str]], asked_for: set[str], generator: np.random.Generator) -> Question | None:
    places = [
        (sentence, at)
        for sentence in context
        if len(sentence) in _ASKED
        for at, word in enumerate(sentence)
        if word in asked_for
    ]
    if not places:
        return None
    sentence, at = places[generator.integers(len(places))]
    asked = [*sentence[:at], "<mask>", *sentence[at + 1 :]]
    return Question(" ".join(word for one in context for word in one), " ".join(asked), sentence[at])


def from_folder(folder: Path) -> DataSet:
    """Return the data set in a folder; if a question has several answers, the first is used."""
    train, validation = (_part(folder, split, file) for split, file in (("train", "train"), ("validation", "dev")))
    return questions(train, validation, name="SQuAD", origin=str(folder))


def _part(folder: Path, split: str, file: str) -> list[Question]:
    columns = read_split(folder, [split], [["context"], ["question"], ["answers"]])
    if columns is None:
        return list(_from_json(require(folder, f"{file}-v1.1.json", LAYOUT)))
    contexts, asked = (texts_of(column, folder) for column in columns[:2])
    answers = [_first_answer(found, folder) for found in columns[2].to_pylist()]
    return [Question(*parts) for parts in zip(contexts, asked, answers, strict=True) if parts[2]]


def _first_answer(found: Any, where: Path) -> str:
    texts: Sequence[Any] | None = found.get("text") if isinstance(found, dict) else None
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise RegimeError(f"{where}: answers without a list of texts, which those of SQuAD have")
    return texts[0] if texts else ""


def _from_json(path: Path) -> Iterator[Question]:
    try:
        found = json.loads(text_of(path))
        for article in found["data"]:
            for paragraph in article["paragraphs"]:
                for asked in paragraph["qas"]:
                    for answer in asked["answers"][:1]:
                        yield Question(*map(_text, (paragraph["context"], asked["question"], answer["text"])))
    except (ValueError, RecursionError) as error:
        raise RegimeError(f"{path}: no JSON ({error}); it is damaged or cut off") from None
    except (KeyError, TypeError, AttributeError) as error:
        raise RegimeError(f"{path}: not JSON in the format of SQuAD ({error!r})") from None


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"expected a text, found {type(value).__name__}")
    return value
