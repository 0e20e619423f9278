"""From a program and parameter states to masks, flips and weight deltas, by ONNX Runtime."""

# It checks that the libraries are installed which every module below may import at its top.
import regime_proto.program  # noqa: F401
