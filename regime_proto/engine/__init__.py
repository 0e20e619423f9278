"""From a program and parameter states to masks, flips and weight deltas, with ONNX Runtime."""

# This import checks that the libraries are installed that every module below imports at its top.
import regime_proto.program  # noqa: F401
