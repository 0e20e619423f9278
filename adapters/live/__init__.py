"""Shared parts of the adapters that record models during training."""
