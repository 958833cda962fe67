"""Prints which heavy modules the command line's start-up imports; run by test_run_cli."""

import sys


def main() -> None:
    """Imports what ``glimpse-run --help`` imports."""
    import glimpse_runtime.cli.run  # noqa: F401

    heavy = {"numpy", "PIL", "tokenizers", "onnxruntime", "torch", "onnx", "onnx_ir", "transformers"}
    print(*sorted(heavy & set(sys.modules)))
