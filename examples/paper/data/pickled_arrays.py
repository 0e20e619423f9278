"""Reads pickles of arrays and plain values, in which old data sets are stored, and refuses all other pickles."""

import codecs
import pickle
from typing import IO, Any

from regime_proto.schema.errors import RegimeError

_OF_NUMPY = {"_reconstruct", "ndarray", "dtype", "scalar"}


def load_arrays(stream: IO[bytes], where: str) -> Any:
    """Return the contents of a pickle: arrays, numbers, texts, and lists and dictionaries of them.

    Parameters
    ----------
    stream : binary file
    where : str
        Name of the file in messages.

    Raises
    ------
    RegimeError
        It refers to anything else, or is not a pickle.
    """

    class Arrays(pickle.Unpickler):
        def find_class(self, module: str, name: str) -> Any:
            # Python 3 writes bytes for Python 2 in this way.
            if (module, name) == ("_codecs", "encode"):
                return codecs.encode
            if module.split(".")[0] == "numpy" and name in _OF_NUMPY:
                return super().find_class(module.replace("numpy.core", "numpy._core"), name)
            raise RegimeError(f"{where}: its pickle asks for {module}.{name}, which is not loaded")

    try:
        return Arrays(stream, encoding="latin1").load()
    except (pickle.UnpicklingError, EOFError, ValueError, KeyError, IndexError, AttributeError, TypeError) as error:
        raise RegimeError(f"{where}: not a pickle that can be read ({error})") from None
