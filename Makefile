# From a bare clone, without root, GPU, token or account:
#
#   make quickstart    install into .venv, then train the bundled tiny pair on the CPU, a minute long, and show the table
#   make test          install into .venv, then lint, check types and run the tests
#
# The network is used by pip alone, on the first call. On Linux, PyPI's torch brings the CUDA libraries: 2.7 GB to
# download, and useless without an NVIDIA GPU. The CPU build, 0.2 GB, comes from PyTorch's own index:
#
#   make quickstart PIP_ARGS="--extra-index-url https://download.pytorch.org/whl/cpu"

PYTHON ?= python3
CONSTRAINTS ?= constraints.txt
PIP_ARGS ?=
PYTEST_ARGS ?=
WORKERS ?= 2
BENCH_ARGS ?=

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/installed-$(notdir $(CONSTRAINTS))
CPU_INDEX := https://download.pytorch.org/whl/cpu
SHELL := /bin/bash

.PHONY: help quickstart test check bench bench-gpu install clean

help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

quickstart: install ## install, then train the bundled tiny pair on the CPU
	$(BIN)/optima-lite train recipes/quickstart.yaml --variant minute

test: install ## install, then run every check: lint, types, tests
	@$(MAKE) --no-print-directory check PYTHON=$(BIN)/python

check: ## run every check with the Python that is active, without installing anything
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .
	$(PYTHON) -m mypy
	$(PYTHON) -m pytest --numprocesses $(WORKERS) --dist loadfile --no-loadscope-reorder $(PYTEST_ARGS)

bench: install ## measure what the prefix cache saves, and write bench.json (minutes)
	$(BIN)/python scripts/bench.py $(BENCH_ARGS)

bench-gpu: install ## measure speed and memory of a random Llama 3 8B under 24, 16 and 12 GiB on an NVIDIA GPU
	$(BIN)/python scripts/bench_gpu.py $(BENCH_ARGS)

install: $(STAMP) ## install the tested versions, this checkout, its extras and the tools for the checks into .venv

$(STAMP): pyproject.toml $(CONSTRAINTS)
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))' 2>/dev/null || { \
	  found=$$($(PYTHON) --version 2>&1) || found="not there"; \
	  echo "optima-lite needs Python 3.11, 3.12 or 3.13; '$(PYTHON)' is $$found."; \
	  echo "  try: make $(or $(firstword $(MAKECMDGOALS)),install) PYTHON=python3.12"; exit 2; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
	  echo "'$(PYTHON)' cannot make virtual environments."; \
	  echo "  try: on Debian and Ubuntu, install the package python3-venv"; exit 2; }
	@echo "Installing into $(VENV) with the versions of $(CONSTRAINTS). The first time takes minutes."
	@if [ -z '$(PIP_ARGS)' ] && [ "$$(uname -s)" = Linux ] && ! command -v nvidia-smi >/dev/null; then \
	  echo "No NVIDIA GPU here: if pip downloads CUDA libraries below (2.7 GB), you can stop it and take the CPU build:"; \
	  echo "  make $(or $(firstword $(MAKECMDGOALS)),install) PIP_ARGS=\"--extra-index-url $(CPU_INDEX)\""; fi
	@$(PYTHON) -m venv $(VENV) && rm -f $(VENV)/installed-*
	@set -o pipefail; $(BIN)/python -m pip install --disable-pip-version-check --progress-bar off $(PIP_ARGS) \
	  --constraint $(CONSTRAINTS) --editable '.[dev,export,math,plot,ray,schema,serve,tensorboard]' \
	  | awk '/Downloading .*[0-9][0-9][.0-9]* MB/ {print "  " $$2, $$3, $$4; fflush()}' \
	  || { echo "The installation failed; pip's message is above."; exit 2; }
	@touch $@
	@echo "Installed."

clean: ## remove the environment and every cache; run folders stay
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
