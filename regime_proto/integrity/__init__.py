"""Whether a sequence of checkpoints is what it claims to be, told without a model.

`scan` reads every state once and keeps digests, `rules` finds what is wrong in these, `check` does both.
"""
