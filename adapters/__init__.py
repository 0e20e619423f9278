"""One module per source of checkpoints or models; the only place that knows a framework.

What such a module may define is said by the protocols in `regime_proto.plugins.protocols`.
"""
