"""What stands in for machines that a test has not got: a GPU, TensorRT, the hub."""
