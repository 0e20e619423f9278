"""Entry point of the script ``regime``."""

import atexit
import gc

from regime_proto.cli.main import main


def run() -> None:
    """Run the command given by the arguments of the process."""
    # At exit, Python collects garbage in all imported modules, which takes a fifth of the time of a short command. The
    # system frees the memory anyway.
    atexit.register(gc.freeze)
    main()
