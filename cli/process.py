"""The command line as a process of its own, which the script ``regime`` is."""

import atexit
import gc

from regime_proto.cli.main import main


def run() -> None:
    """Run the command that the arguments of the process say."""
    # At its end Python looks for garbage in all that was imported, a fifth of the time of a short command; the system
    # takes the memory back anyway.
    atexit.register(gc.freeze)
    main()
