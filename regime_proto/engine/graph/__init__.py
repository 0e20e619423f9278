"""Graphs: from an exported model to a program, its gates, and the graph that is run."""
