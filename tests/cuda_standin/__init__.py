"""onnxruntime's CUDA provider on stand-ins of CUDA: node placement, launches, copies and waits, without a GPU."""
