"""Adapters: what they can do, which are installed, and which of them reads a directory."""
