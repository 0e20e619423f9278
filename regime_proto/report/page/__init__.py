"""Self-explanatory pages about one or several runs."""

from regime_proto.report.page.page import report

__all__ = ["report"]
