"""The errors and warnings that a user of the project sees."""


class RegimeError(Exception):
    """Something the user can mend: the message says where, what was expected and found, and what to do."""


class TrajectoryError(RegimeError):
    """A trajectory file cannot be read or written."""


class RegimeWarning(UserWarning):
    """A result stands, but the user should know something about it."""
