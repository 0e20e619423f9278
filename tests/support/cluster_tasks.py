"""What the workers of a cluster carry out in tests; a module of its own, which they import quickly."""

import os
import signal
import time


def die(_shared, number):
    """Kill the worker, if it is the second task."""
    if number == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def wait(_shared, seconds):
    """Take some time."""
    time.sleep(seconds)
