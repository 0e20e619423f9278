"""How a directory of checkpoints is read, as the user says."""

from dataclasses import dataclass


@dataclass(frozen=True)
class SourceSettings:
    r"""How a directory of checkpoints is read; what is None is detected.

    Parameters
    ----------
    adapter : str, optional
        The adapter that reads it.
    step_pattern : str, optional
        A regular expression with one group, the step, or the epoch if it is named so (``(?P<epoch>\d+)``), that is
        searched in the names of files or folders; those without it are left out.
    weights : str, optional
        The key under which a checkpoint holds the weights that are meant, or the front of their names.
    """

    adapter: str | None = None
    step_pattern: str | None = None
    weights: str | None = None


AS_DETECTED = SourceSettings()
