"""Sources of the CUDA compaction plugin; built on the device that runs it."""
