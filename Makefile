# `make` alone lists the targets. They need Python 3.10 or newer with its venv module and install the rest into .venv.

PYTHON ?= python3
VENV ?= .venv
PIP_ARGS ?=
PYTEST_ARGS ?= -n auto --maxprocesses=4

BIN := $(VENV)/bin
PACKAGE := $(VENV)/.package-installed
TOOLS := $(VENV)/.tools-installed
# progress bars only in a terminal
QUIET := $(shell test -t 2 || echo --quiet)
PIP_INSTALL = $(BIN)/python -m pip install $(QUIET) --disable-pip-version-check $(PIP_ARGS) -c requirements/tested.txt

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo paint test slow docs lint types format clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "make %-8s %s\n", $$1, $$2}' Makefile

demo: $(PACKAGE) ## edit the bundled guides with the bundled checkpoint into outputs/demo.png
	$(BIN)/python -m sdedit_pl demo out=outputs/demo.png overwrite=true

paint: $(PACKAGE) ## paint guides in a browser and edit them with the bundled checkpoint
	$(BIN)/python -m sdedit_pl paint

test: $(TOOLS) ## run the tests, without the slow ones
	$(BIN)/python -m pytest -m "not slow" $(PYTEST_ARGS)

slow: $(TOOLS) ## run the slow tests
	$(BIN)/python -m pytest -m slow

docs: $(TOOLS) ## build the documentation site into docs/_build
	$(BIN)/python -m sphinx -q -W --keep-going docs docs/_build

lint: $(TOOLS) ## check style and formatting
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(TOOLS) ## check types
	$(BIN)/pyright --pythonpath $(BIN)/python

format: $(TOOLS) ## format the code and fix lint errors where possible
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean: ## remove the environment, caches and builds, but not runs/ and outputs/
	rm -rf $(VENV) build dist .pytest_cache .ruff_cache
	find sdedit_pl tests -type d -name __pycache__ -prune -exec rm -rf {} +

$(BIN)/python:
	@command -v $(PYTHON) >/dev/null || { echo "no $(PYTHON) found: install Python 3.10 or newer, or name one, as in 'make PYTHON=python3.12'" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { echo "Python 3.10 or newer is needed, and $(PYTHON) is $$($(PYTHON) -V 2>&1): name a newer one, as in 'make PYTHON=python3.12'" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(PACKAGE): pyproject.toml requirements/tested.txt | $(BIN)/python
	@echo "installing into $(VENV); the first time takes minutes, most of them for PyTorch"
	$(PIP_INSTALL) -e '.[paint]'
	@touch $@

$(TOOLS): $(PACKAGE)
	$(PIP_INSTALL) -e '.[dev]'
	@touch $@
