"""One module per source of checkpoints or models; the only place that knows a framework.

The names that such a module may define are the protocols `Reader` and `Exporter` in `regime_proto.plugins.registry`.
"""
