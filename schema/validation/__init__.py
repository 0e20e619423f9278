"""The rules for trajectory files, and the checks of a file against them."""
