"""Builds TensorRT engines from bundles; needs TensorRT and onnx, nothing else of the export side."""
