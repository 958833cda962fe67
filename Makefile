# make demo   sets up, exports pocket, asks about the example images, writes overlay pictures
# make test   sets up, runs the tests of a few minutes
# make test-all  sets up, runs all tests, also those that take long by design
# make check  sets up, runs the linters and type checker
# make plugin  sets up, compiles the compaction kernels for every GPU that nvcc knows, runs their properties
# make test-rtx  adds TensorRT-RTX, builds engines of pocket without a GPU
# make test-cuda-standin  runs onnxruntime's CUDA provider in three versions on stand-ins of CUDA, counts what it does
# make test-install  resolves every Python and combination of extras, installs nothing
# make test-robots  sets up a venv with OpenCV, ROS 2 and dora, runs the tests that talk to them

PYTHON ?= python3
VENV ?= .venv
OUT ?= demo-output
ROBOTS_VENV ?= .venv-robots
STANDIN_VENVS ?= .venv-standins
# The last for Python 3.10, the last for CUDA 12, the newest that was tried.
STANDIN_VERSIONS := 1.23.2 1.26.0 1.31.1
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# A worker of tests takes a core and about half a gigabyte.
WORKERS ?= -n auto --maxprocesses 4 --dist worksteal

.PHONY: setup demo test test-all plugin test-rtx test-cuda-standin test-install test-robots check clean bundle

setup: $(STAMP)

$(STAMP): setup.cfg pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[cpu,export,dev]"
	touch $@

demo: $(STAMP)
	mkdir -p $(OUT)
	$(BIN)/glimpse-export --model pocket --out $(OUT)/pocket --force
	$(BIN)/python examples/demo.py --bundle $(OUT)/pocket --out $(OUT)

test: $(STAMP)
	$(BIN)/python -m pytest -q $(WORKERS) -m "not robots and not standin and not slow"

test-all: $(STAMP)
	$(BIN)/python -m pytest -q $(WORKERS)

plugin: $(STAMP)
	$(BIN)/python -m glimpse_plugins --all-architectures
	$(BIN)/python -m pytest -q tests/plugins/test_compaction.py tests/plugins/test_library.py

test-rtx: $(STAMP)-rtx
	$(BIN)/python -m pytest -q -rs -m rtx tests

$(STAMP)-rtx: $(STAMP)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[rtx]"
	touch $@

test-cuda-standin: $(STAMP) $(STANDIN_VERSIONS:%=$(STANDIN_VENVS)/%/.installed)
	STANDIN_VENVS=$(STANDIN_VENVS) $(BIN)/python -m pytest -q -s -m standin tests/cuda_standin

$(STANDIN_VENVS)/%/.installed:
	$(PYTHON) -m venv $(STANDIN_VENVS)/$*
	$(STANDIN_VENVS)/$*/bin/python -m pip install --quiet --disable-pip-version-check onnxruntime-gpu==$* \
		tokenizers Pillow click
	touch $@

test-install: $(STAMP)
	$(BIN)/python tests/house/install_matrix.py

test-robots: $(ROBOTS_VENV)/.installed
	$(ROBOTS_VENV)/bin/python -m pytest -q -rs -m robots tests/robots

$(ROBOTS_VENV)/.installed: setup.cfg pyproject.toml
	$(PYTHON) -m venv $(ROBOTS_VENV)
	$(ROBOTS_VENV)/bin/python -m pip install --quiet --disable-pip-version-check -e ".[cpu,video,ros2,dora]" "pytest>=8"
	touch $@

check: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean:
	rm -rf $(VENV) $(ROBOTS_VENV) $(STANDIN_VENVS) $(OUT) build dist *.egg-info

# The bundle that ships in the package; run it when the checkpoint, the graphs or the bundle format change.
bundle: $(STAMP)
	$(BIN)/glimpse-export --model pocket --out models/glimpse_models/pocket/bundle --force
