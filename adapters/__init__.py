"""Adapters: one module per source of checkpoints or models. No other package depends on a framework.

The protocols in `regime_proto.plugins.protocols` describe what such a module may define.
"""
