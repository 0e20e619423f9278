"""Images that are decoded and resized on access."""

import io
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from regime_proto.examples.paper.data.sets import Indices
from regime_proto.schema.errors import RegimeError

_FORMATS = ("JPEG", "PNG")


class Content(Protocol):
    """The source of an encoded image; its text is its name in messages."""

    def read(self) -> bytes:
        """Return the bytes."""


class FileContent:
    """An image in a file of its own."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __str__(self) -> str:
        return str(self._path)

    def read(self) -> bytes:
        """Return the bytes.

        Raises
        ------
        RegimeError
            The file cannot be read.
        """
        try:
            return self._path.read_bytes()
        except OSError as error:
            raise RegimeError(f"{self._path}: cannot be read ({error.strerror})") from None


class ImageFiles:
    """The rows of a data set: images of one size, each the central square of its file.

    Parameters
    ----------
    contents : sequence of Content
    size : int
        Pixels per side.
    """

    def __init__(self, contents: Sequence[Content], size: int) -> None:
        self.contents = contents
        self.size = size

    def __len__(self) -> int:
        return len(self.contents)

    def __getitem__(self, indices: Indices) -> NDArray[np.uint8]:
        """Return these images: (sample, 3, row, column) uint8.

        Raises
        ------
        RegimeError
            A file is damaged, too large or not an image.
        """
        images = np.empty((len(indices), 3, self.size, self.size), np.uint8)
        for at, index in enumerate(np.asarray(indices).tolist()):
            images[at] = decode(self.contents[index], self.size)
        return images


def decode(content: Content, size: int) -> NDArray[np.uint8]:
    """Return an image in red, green and blue: (3, size, size) uint8.

    Raises
    ------
    RegimeError
        It is damaged, not a JPEG or PNG, or has more pixels than Pillow accepts without a warning.
    """
    encoded = content.read()
    try:
        with warnings.catch_warnings():
            # Otherwise, Pillow would only warn about too many pixels.
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(encoded), formats=_FORMATS) as image:
                # Lets a JPEG be decoded at a half, a quarter or an eighth of its size.
                image.draft("RGB", (size, size))
                colored = image.convert("RGB")
                if colored.size != (size, size):
                    colored = ImageOps.fit(colored, (size, size), Image.Resampling.BILINEAR)
                return np.asarray(colored).transpose(2, 0, 1)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise RegimeError(f"{content}: more than {Image.MAX_IMAGE_PIXELS:,} pixels; it is not decoded") from None
    # Pillow's decoders raise many kinds of errors for damaged files.
    except Exception as error:
        reason = "no JPEG or PNG" if isinstance(error, Image.UnidentifiedImageError) else str(error)
        raise RegimeError(f"{content}: {len(encoded)} bytes that cannot be decoded ({reason})") from None
