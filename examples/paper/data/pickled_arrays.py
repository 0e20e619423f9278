"""Reads pickles of arrays and plain values, in which old data sets are kept, and refuses every other one."""

import codecs
import pickle
from typing import IO, Any

from regime_proto.schema.errors import RegimeError

_OF_NUMPY = {"_reconstruct", "ndarray", "dtype", "scalar"}


def load_arrays(stream: IO[bytes], where: str) -> Any:
    """Return what a pickle holds: arrays, numbers, texts, and lists and dictionaries of them.

    Parameters
    ----------
    stream : binary file
    where : str
        For the message.

    Raises
    ------
    RegimeError
        It asks for anything else, or is no pickle.
    """

    class Arrays(pickle.Unpickler):
        def find_class(self, module: str, name: str) -> Any:
            # How Python 3 writes bytes for Python 2.
            if (module, name) == ("_codecs", "encode"):
                return codecs.encode
            if module.split(".")[0] == "numpy" and name in _OF_NUMPY:
                return super().find_class(module.replace("numpy.core", "numpy._core"), name)
            raise RegimeError(f"{where}: its pickle asks for {module}.{name}, which is not loaded")

    try:
        return Arrays(stream, encoding="latin1").load()
    except (pickle.UnpicklingError, EOFError, ValueError, KeyError, IndexError, AttributeError, TypeError) as error:
        raise RegimeError(f"{where}: not a pickle that can be read ({error})") from None
