"""Pages and figures of what an analysis found: one run, or several beside each other."""
