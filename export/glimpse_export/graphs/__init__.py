"""Authors the graphs of a bundle with onnx_ir, from one description, in a choice of dialects."""
