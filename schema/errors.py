"""The errors and warnings that a user of the project sees."""


class RegimeError(Exception):
    """A problem that the user can fix: the message says where, what was found and expected, and what to do."""


class TrajectoryError(RegimeError):
    """A trajectory file cannot be read or written."""


class RegimeWarning(UserWarning):
    """A result is valid, but the user should know something about it."""
