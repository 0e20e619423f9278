"""The command ``regime``; the only place that draws."""
