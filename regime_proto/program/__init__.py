"""Programs: a model's graph with its weights as inputs, its gates, and the probe it runs on."""

from regime_proto.runtime.installed import require_runtime

# Checked once, here, so that every module below can import onnx_ir and onnxruntime at its top.
require_runtime()
