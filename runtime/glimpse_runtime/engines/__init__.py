"""TensorRT engines as files: which TensorRT there is, how an engine is named, found and checked."""
