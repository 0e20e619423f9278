"""Programs: the graph of a model with its weights as inputs, its gates, and the probe that it runs on."""

from regime_proto.runtime.installed import require_runtime

# Once, here: every module below may import onnx_ir and onnxruntime at its top.
require_runtime()
