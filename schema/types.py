"""Types that are written often."""

from collections.abc import Callable
from typing import Any

from numpy.typing import NDArray

Array = NDArray[Any]

Progress = Callable[[int, int], None]
"""Called with how much is done, and the total."""
