"""The user's settings for reading a directory of checkpoints."""

from dataclasses import dataclass


@dataclass(frozen=True)
class SourceSettings:
    r"""How to read a directory of checkpoints. Settings that are None are detected.

    Parameters
    ----------
    adapter : str, optional
        The adapter that reads it.
    step_pattern : str, optional
        A regular expression to search in the names of files or folders; names without a match are left out. Its one
        group is the step, or the epoch if the group is named so (``(?P<epoch>\d+)``).
    weights : str, optional
        The key under which a checkpoint holds the weights to use, or the prefix of their names.
    """

    adapter: str | None = None
    step_pattern: str | None = None
    weights: str | None = None


AS_DETECTED = SourceSettings()
