"""Example runs: each trains a network and writes a directory that ``regime analyze`` reads."""
