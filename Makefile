# Everything runs in .venv, which the first target that needs it makes from requirements.lock.
# On a new machine: `make demo` runs the main job, `make test` the tests. Python 3.11+, pip and make are all it takes.

PYTHON ?= python3
PIP_FLAGS ?= -qq
BIN := .venv/bin
STAMP := .venv/.installed

.PHONY: demo test quick check format lint types imports docs docs-check bench lock compile pure install clean help
.DEFAULT_GOAL := help

help:             ## this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 14

demo: $(STAMP)    ## the main job on a sample: logs in, adapters out, before and after
	$(BIN)/logtune demo

test: $(STAMP)    ## all tests, the ones with real models and real training too
	$(BIN)/pytest

quick: $(STAMP)   ## the tests that need no model
	$(BIN)/pytest -m "not slow"

check: lint types imports docs-check test  ## format, lint, types, import contracts, docs and all tests

lint: $(STAMP)    ## format and lint
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: $(STAMP)   ## mypy --strict
	$(BIN)/mypy

imports: $(STAMP) ## the layers, as contracts
	$(BIN)/lint-imports

docs-check: $(STAMP)
	$(BIN)/python docs/generate.py --check

docs: $(STAMP)    ## write the generated pages again
	$(BIN)/python docs/generate.py

format: $(STAMP)  ## put the code in shape
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(STAMP)   ## the weekly benchmark and the figures in README
	$(BIN)/python benchmarks/startup.py --json benchmarks/results/startup.json
	$(BIN)/python benchmarks/weekly.py --weeks 2 --json benchmarks/results/weekly.json
	$(BIN)/python benchmarks/gateway.py --peer litellm --crash --outage --swaps --json benchmarks/results/gateway.json
	$(BIN)/python docs/generate.py

lock: $(STAMP)    ## requirements.lock with the newest versions
	$(BIN)/python scripts/lock.py

compile: $(STAMP) ## what every request passes through as machine code: a faster gateway; needs a C compiler, takes minutes
	LOGTUNE_COMPILE=1 $(BIN)/python setup.py build_ext --inplace

pure:             ## pure Python again
	find logtune -name '*.so' -delete

install: $(STAMP) ## .venv alone

# The last line adds what the chosen build of torch needs: nothing for a CPU build, its CUDA libraries for the default one.
$(STAMP): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "logtune needs Python 3.11 or newer, $(PYTHON) is older: make PYTHON=python3.12 ..." >&2; exit 1; }
	@echo "Installing the pinned packages into .venv (once; a few minutes)"
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install $(PIP_FLAGS) $$(grep '^pip==' requirements.lock)
	$(BIN)/python -m pip install $(PIP_FLAGS) --no-deps --no-compile -r requirements.lock
	$(BIN)/python -m pip install $(PIP_FLAGS) --no-deps --no-build-isolation -e .
	$(BIN)/python -m pip install $(PIP_FLAGS) --constraint requirements.lock torch
	@touch $@

clean:            ## remove .venv, caches and what the demo wrote
	rm -rf .venv .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis .coverage htmlcov demo *.egg-info
