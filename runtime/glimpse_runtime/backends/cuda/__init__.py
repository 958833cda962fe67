"""CUDA through the driver's bindings: memory, streams, graphs, copies and compaction."""
