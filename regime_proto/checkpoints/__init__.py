"""Checkpoints: where they lie, their order, and the tensors that they hold."""
