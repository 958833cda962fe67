"""What the package costs and gains: accuracy, speed, export. docs/figures/benchmarks.md lists commands and figures."""
