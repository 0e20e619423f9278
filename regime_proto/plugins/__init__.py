"""Adapters: what they can do, which ones are installed, and which one reads a directory."""
