"""Checkpoints that are published on the Hugging Face Hub: one run as many revisions, repositories or commits."""
