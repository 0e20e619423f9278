"""Checks, without a model, whether a sequence of checkpoints is what it claims to be.

`scan` reads every state once and keeps digests, `rules` finds what is wrong with them, and `check` does both.
"""
