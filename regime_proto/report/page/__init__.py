"""Pages that explain themselves, of one run or several."""

from regime_proto.report.page.page import report

__all__ = ["report"]
