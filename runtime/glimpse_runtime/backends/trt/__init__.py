"""TensorRT and TensorRT-RTX: engines from the cache, run on one CUDA stream."""

from glimpse_runtime.backends.trt.backend import TrtBackend

__all__ = ["TrtBackend"]
