"""Pages and figures of analysis results, for one or several runs."""
