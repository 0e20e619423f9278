"""The data sets of the paper: the real ones if they are available, otherwise stand-ins."""
