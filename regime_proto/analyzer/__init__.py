"""Computes curves, AUC and ρ from a trajectory. Imports no framework and no onnx."""
