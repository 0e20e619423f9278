"""Where things are that tests look at."""

from pathlib import Path

SUPPORT = Path(__file__).parent
DATA = SUPPORT.parent / "data"
ROOT = SUPPORT.parent.parent
EXAMPLES = ROOT / "examples"
