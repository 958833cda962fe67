"""CUDA through its driver: memory, streams, graphs, copies and compaction."""
