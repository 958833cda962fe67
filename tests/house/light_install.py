"""Run inside an environment that has only the wheel and its ``cpu`` extra: it must answer, and stay light.

python tests/house/light_install.py EXAMPLES_FOLDER
"""

import json
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

FORBIDDEN = ("torch", "onnx", "onnx_ir", "transformers", "safetensors", "skimage")


def main() -> None:
    """Asks the example questions through the installed command."""
    examples = Path(sys.argv[1])
    present = [name for name in FORBIDDEN if find_spec(name) is not None]
    assert not present, f"this environment is not light: {present}"
    command = str(Path(sys.executable).parent / "glimpse-run")
    questions = json.loads((examples / "questions.json").read_text())
    right = 0
    for item in questions:
        start = time.perf_counter()
        done = subprocess.run(
            [command, str(examples / item["image"]), item["question"]], capture_output=True, text=True, check=True
        )
        right += done.stdout.strip() == item["answer"]
        print(f"{time.perf_counter() - start:5.2f} s  {item['question']} -> {done.stdout.strip()}")
    assert right == len(questions), f"{right} of {len(questions)} answers are right"
    export = str(Path(sys.executable).parent / "glimpse-export")
    done = subprocess.run([export, "--model", "pocket"], capture_output=True, text=True, check=False)
    assert done.returncode == 1, done
    assert "glimpse-edge[export]" in done.stderr, done.stderr
    assert "Traceback" not in done.stderr, done.stderr
    done = subprocess.run(
        [export, "--bundle", "b", "--target", "tensorrt"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1, done
    assert "python3-libnvinfer" in done.stderr, done.stderr
    assert "Traceback" not in done.stderr, done.stderr
    print("the light installation answers, and export says what it needs")


if __name__ == "__main__":
    main()
