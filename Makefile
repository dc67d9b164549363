PYTHON ?= python3
VENV ?= .venv
# On Linux without a GPU: make quickstart PIP_FLAGS="--extra-index-url https://download.pytorch.org/whl/cpu"
PIP_FLAGS ?=
BIN = $(VENV)/bin
PYTEST = OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadgroup

.PHONY: help quickstart test test-clients test-all test-reproduction lint bench docs clean
.DEFAULT_GOAL := help

help:  ## List the targets
	@grep -E '^[a-z-]+:.*##' Makefile | sed -E 's/:.*## /\t/' | expand -t 20

quickstart: $(VENV)/.user  ## Make a real model elastic, show its grid, search with it
	$(BIN)/python examples/quickstart.py

test: $(VENV)/.dev  ## Run the tests (8 to 20 minutes on two cores)
	$(PYTEST) -m "not slow"

test-clients: $(VENV)/.dev $(VENV)/clients/.ok  ## Run the tests with LangChain, LiteLLM and LlamaIndex
	MATRYOSHKA2D_CLIENTS=$(VENV)/clients/bin/python $(PYTEST) tests/serving/test_clients.py tests/search/test_frameworks.py

test-all: $(VENV)/.dev  ## Run every test, the slow ones too
	$(PYTEST)

test-reproduction: $(VENV)/.dev  ## Run the tests of reproduction/
	$(PYTEST) -m "not slow" reproduction

lint: $(VENV)/.dev  ## Check style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(VENV)/.dev  ## Measure training and evaluation against sentence-transformers
	$(BIN)/python benchmarks/training.py
	$(BIN)/python benchmarks/evaluation.py

docs: $(VENV)/.docs  ## Build the site into build/site; a warning is an error
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

clean:  ## Remove the environment and caches
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache

$(VENV)/.user: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet $(PIP_FLAGS) --constraint constraints.txt --editable ".[quickstart]"
	touch $@

$(VENV)/clients/.ok: tests/serving/clients.txt tests/search/frameworks.txt
	$(PYTHON) -m venv $(VENV)/clients
	$(VENV)/clients/bin/python -m pip install --quiet $(patsubst %,--requirement %,$^)
	touch $@

$(VENV)/.dev: pyproject.toml reproduction/pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet $(PIP_FLAGS) --constraint constraints.txt --editable ".[dev]" --editable reproduction
	touch $@ $(VENV)/.user

$(VENV)/.docs: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet $(PIP_FLAGS) --constraint constraints.txt --editable ".[docs]"
	touch $@ $(VENV)/.user
