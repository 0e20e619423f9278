"""Checkpoints published on the Hugging Face Hub: one run as several revisions, repositories or commits."""
