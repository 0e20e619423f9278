"""Checkpoints: where they are stored, their order, and the tensors they hold."""
