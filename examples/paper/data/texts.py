"""Creates data sets from texts: classified texts, questions about texts, and running text."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from regime_proto.examples.paper.data.sets import IGNORED, LABELS, DataSet, Part, held_out
from regime_proto.examples.paper.data.words import END, PAD, START, Windows, Words, padded, stream_of
from regime_proto.schema.errors import RegimeError

# Number of tokens of a window of running text, of a question with its context, and of an answer with its end.
WINDOW_TOKENS = 128
QUESTION_TOKENS = 128
ANSWER_TOKENS = 8


@dataclass(frozen=True)
class Classified:
    """Texts with their classes."""

    texts: Sequence[str]
    labels: Sequence[int]


@dataclass(frozen=True)
class Question:
    """A question about a text with its answer, which is a part of the text."""

    context: str
    question: str
    answer: str


def parted(texts: Sequence[str], labels: NDArray[np.int64]) -> tuple[Classified, Classified]:
    """Return training texts and validation texts, in mixed order, so that the first ones include every class.

    Parameters
    ----------
    texts : sequence of str
    labels : (text,) int64
    """
    order = np.random.default_rng(0).permutation
    train, validation = (
        Classified([texts[index] for index in part.tolist()], labels[part].tolist())
        for part in map(order, held_out(labels))
    )
    return train, validation


def classified(
    train: Classified,
    validation: Classified,
    *,
    tokens: int,
    classes: int,
    name: str,
    origin: str,
    stands_for: str | None = None,
) -> DataSet:
    """Return texts with classes as a data set: a start token and the first words of each text.

    Parameters
    ----------
    train, validation : Classified
    tokens : int
        Number of tokens of each text, including the start token.
    classes : int
    name, origin, stands_for : str
        As in `DataSet`.

    Raises
    ------
    RegimeError
        A class is not below `classes`, or there are no texts.
    """
    words = Words(train.texts)

    def part(texts: Classified) -> Part:
        ids = padded([[START, *words.encode(text)] for text in texts.texts], tokens)
        labels = checked_labels(texts.labels, classes, origin)
        return {"input_ids": ids, "attention_mask": (ids != PAD).astype(np.int64), LABELS: labels}

    return DataSet(
        name=name,
        origin=origin,
        train=part(train),
        validation=part(validation),
        classes=classes,
        stands_for=stands_for,
        facts={"tokens": tokens, "vocabulary": len(words)},
    )


def questions(
    train: Sequence[Question],
    validation: Sequence[Question],
    *,
    name: str,
    origin: str,
    stands_for: str | None = None,
) -> DataSet:
    """Return questions as a data set: question, end token, first words of the context; the model writes the answer.

    Parameters
    ----------
    train, validation : sequence of Question
    name, origin, stands_for : str
        As in `DataSet`.

    Raises
    ------
    RegimeError
        There are no questions.
    """
    if not train or not validation:
        raise RegimeError(f"{origin}: no question with an answer, for training or for validation")
    # Several questions share a context.
    words = Words([*dict.fromkeys(one.context for one in train), *(one.question for one in train)])

    def part(asked: Sequence[Question]) -> Part:
        inputs = [[*words.encode(one.question), END, *words.encode(one.context)] for one in asked]
        ids = padded(inputs, QUESTION_TOKENS)
        written = [[*words.encode(one.answer)[: ANSWER_TOKENS - 1], END] for one in asked]
        given = padded([[PAD, *answer[:-1]] for answer in written], ANSWER_TOKENS)
        labels = padded(written, ANSWER_TOKENS, IGNORED)
        mask = (ids != PAD).astype(np.int64)
        return {"input_ids": ids, "attention_mask": mask, "decoder_input_ids": given, LABELS: labels}

    facts = {"tokens": QUESTION_TOKENS, "answer_tokens": ANSWER_TOKENS, "vocabulary": len(words)}
    return DataSet(
        name=name,
        origin=origin,
        train=part(train),
        validation=part(validation),
        classes=len(words),
        stands_for=stands_for,
        facts=facts,
    )


def running(
    train: Sequence[str], validation: Sequence[str], *, name: str, origin: str, stands_for: str | None = None
) -> DataSet:
    """Return running text as a data set: windows of text, and the next token for each of their tokens.

    Parameters
    ----------
    train, validation : sequence of str
        Lines.
    name, origin, stands_for : str
        As in `DataSet`.

    Raises
    ------
    RegimeError
        It is too short for one window.
    """
    words = Words(train)

    def part(lines: Sequence[str]) -> Part:
        stream = stream_of(lines, words)
        if len(stream) <= WINDOW_TOKENS:
            raise RegimeError(f"{origin}: a text of {len(stream)} words, expected more than {WINDOW_TOKENS}")
        return {"input_ids": Windows(stream, WINDOW_TOKENS), LABELS: Windows(stream, WINDOW_TOKENS, shift=1)}

    return DataSet(
        name=name,
        origin=origin,
        train=part(train),
        validation=part(validation),
        classes=len(words),
        stands_for=stands_for,
        score="perplexity",
        facts={"tokens": WINDOW_TOKENS, "vocabulary": len(words)},
    )


def checked_labels(values: Sequence[int] | NDArray[np.uint8], classes: int, where: str) -> NDArray[np.int64]:
    """Return labels as an array.

    Raises
    ------
    RegimeError
        A label is negative or not below the number of classes, or there are no labels.
    """
    try:
        labels = np.asarray(values, np.int64)
    except OverflowError:
        raise _no_class(max(values, key=abs), classes, where) from None
    if not len(labels):
        raise RegimeError(f"{where}: no samples")
    if labels.min() < 0 or labels.max() >= classes:
        wrong = labels[(labels < 0) | (labels >= classes)][0]
        raise _no_class(wrong, classes, where)
    return labels


def _no_class(found: int, classes: int, where: str) -> RegimeError:
    return RegimeError(f"{where}: class {found}, counted from 0, expected 0 to {classes - 1}")
