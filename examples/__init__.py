"""Runs to learn from: each trains a network and leaves a directory that ``regime analyze`` reads."""
