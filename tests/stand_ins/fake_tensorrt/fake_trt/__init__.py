"""A stand-in for TensorRT's Python module, as strict as the original where a mistake of ours would show.

Put ``tests/fake_tensorrt`` on the module path and ``import tensorrt`` or ``import tensorrt_rtx`` finds it;
``FAKE_TENSORRT`` and ``FAKE_TENSORRT_RTX`` in the environment name the version to be. It reads real ONNX graphs, turns
nodes into layers as that version does, traps included, and "builds" an engine that is JSON: interface, profiles,
aliases and the graph's place, so that a stand-in for its runtime can run the graph with onnxruntime.
"""
