"""The data sets of the paper: the real ones where they can be had, and what stands in for them where not."""
