# make demo: train a small Mask R-CNN on the built-in data, evaluate it, leave pictures and a report
# make test: the test suite; make lint: ruff and mypy
# Everything is installed into .venv, once; pick another Python with `make PYTHON=python3.12 ...`.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
DEMO := output/demo
PYTEST := $(BIN)/python -m pytest --durations=10

.PHONY: all install install-dev build demo test test-slow lint format clean

all: build

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

# The stamps make a second run immediate: an editable install need not be repeated when the sources change.
$(VENV)/installed: pyproject.toml setup.py | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable .
	touch $@

$(VENV)/installed-dev: pyproject.toml setup.py | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable ".[dev]"
	touch $(VENV)/installed $@

# Without the variable the command's own import would build the CPU's part first, alone.
$(VENV)/built: $(VENV)/installed $(wildcard csrc/*)
	MASKRCNN_OPS=reference $(BIN)/maskrcnn build
	touch $@

install: $(VENV)/installed

install-dev: $(VENV)/installed-dev

build: $(VENV)/built

$(DEMO)/model_final.pth: | $(VENV)/built
	$(BIN)/maskrcnn train --config configs/demo/shapes.yaml --resume OUTPUT_DIR $(DEMO)

demo: $(DEMO)/model_final.pth
	$(BIN)/maskrcnn show_predictions $(DEMO)
	@echo "the report of the run: $(DEMO)/report.html"

test: $(VENV)/installed-dev $(VENV)/built
	$(PYTEST) -m "not slow"

test-slow: $(VENV)/installed-dev $(VENV)/built
	$(PYTEST) -m slow

lint: $(VENV)/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/installed-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache $(DEMO)
