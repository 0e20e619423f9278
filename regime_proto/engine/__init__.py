"""From a program and parameter states to masks, flips and weight deltas, by ONNX Runtime."""

from regime_proto.runtime.installed import require_runtime

# Once, here: every module below may import onnx_ir and onnxruntime at its top.
require_runtime()
