"""From a trajectory to curves, AUC and ρ. Imports no framework and no onnx."""
