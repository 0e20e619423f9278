"""The command ``regime``; the only package that draws on a terminal."""
