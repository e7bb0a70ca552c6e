# Two commands do all the set-up on a fresh machine with Python >= 3.10:
#   make demo   build the reference model in INT8, stream it, compare it
#   make test   every check that CI runs
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
OUT    ?= demo-out

.DEFAULT_GOAL := help
.PHONY: help demo test lint test-runtime format clean

help:
	@sed -n 's/^#   //p' Makefile

$(VENV)/.made:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' \
	  || { echo 'Python 3.10 or newer is needed: make PYTHON=python3.11 ...' >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/.demo: $(VENV)/.made pyproject.toml constraints.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check \
	  -c constraints.txt -e '.[export,opencv,report]'
	@touch $@

$(VENV)/.test: $(VENV)/.made pyproject.toml constraints.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check \
	  -c constraints.txt -e '.[test]'
	@touch $@ $(VENV)/.demo

demo: $(VENV)/.demo
	BIN=$(BIN) OUT=$(OUT) sh benchmarks/demo.sh

test: lint $(VENV)/.test
	$(BIN)/python -m pytest -n auto --dist worksteal
	@$(MAKE) --no-print-directory test-runtime

lint: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# The runtime alone, as a Jetson has it: JetPack 6 (Python 3.10, numpy 1.26) and 7 (Python 3.12).
test-runtime: $(VENV)/.made
	sh tests/runtime_only.sh

format: $(VENV)/.test
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(OUT) .venv*/ build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache
