"""Encodes words as numbers, with the vocabulary of the training text."""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

Tokens = NDArray[np.int64]

PAD, UNKNOWN, START, END, MASK = range(5)
_RESERVED = ("<pad>", "<unk>", "<start>", "<end>", "<mask>")
# Matches WikiText's markers for rare words and inside numbers, a gap, words with apostrophes, and punctuation.
_WORD = re.compile(r"<(?:unk|mask)>|@[-,.]@|[^\W_]+(?:['’][^\W_]+)*|[^\w\s]|_")


def split(text: str) -> list[str]:
    """Return the words and punctuation marks of a text, in lower case."""
    return _WORD.findall(text.lower())


class Words:
    """The most common words of a text, numbered; the first five numbers are reserved.

    Parameters
    ----------
    texts : iterable of str
        The training texts.
    size : int
        Maximum number of words, including the reserved numbers.
    """

    def __init__(self, texts: Iterable[str], size: int = 8192) -> None:
        counts = Counter(word for text in texts for word in split(text))
        # Equally common words are sorted alphabetically, so that the order of the texts does not matter.
        known = sorted(counts.keys() - set(_RESERVED), key=lambda word: (-counts[word], word))
        words = (*_RESERVED, *known[: size - len(_RESERVED)])
        self.numbers = {word: number for number, word in enumerate(words)}

    def __len__(self) -> int:
        return len(self.numbers)

    def encode(self, text: str) -> list[int]:
        """Return the number of each word."""
        numbers = self.numbers
        return [numbers.get(word, UNKNOWN) for word in split(text)]


def padded(rows: Sequence[Sequence[int]], length: int, fill: int = PAD) -> Tokens:
    """Return rows of numbers as an array; longer rows are truncated and shorter ones padded.

    Returns
    -------
    (row, length) int64
    """
    values = np.full((len(rows), length), fill, np.int64)
    for row, tokens in zip(values, rows, strict=True):
        kept = tokens[:length]
        row[: len(kept)] = kept
    return values


class Windows:
    """Consecutive parts of a long text, of equal length, as rows of a data set.

    Parameters
    ----------
    stream : (token,) int32
    length : int
        Number of tokens per part.
    shift : int
        Offset of the start of each part: 1 for the tokens to predict.
    """

    def __init__(self, stream: NDArray[np.int32], length: int, shift: int = 0) -> None:
        count = (len(stream) - 1) // length
        self._rows = stream[shift : shift + count * length].reshape(count, length)

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, indices: Tokens) -> Tokens:
        """Return these windows: (window, token) int64."""
        return self._rows[indices].astype(np.int64)


def stream_of(lines: Iterable[str], words: Words) -> NDArray[np.int32]:
    """Return the tokens of a text, with an end token after each non-blank line."""
    return np.fromiter(_tokens(lines, words), np.int32)


def _tokens(lines: Iterable[str], words: Words) -> Iterator[int]:
    for line in lines:
        tokens = words.encode(line)
        if tokens:
            yield from tokens
            yield END
