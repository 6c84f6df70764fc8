# For people: make demo, make test. `make help` says what each target does.

VENV := .venv
PYTHON := $(VENV)/bin/python
CODE := agent server protocol tests bench scripts
READY := $(VENV)/.ready

# The folder that `make demo` backs up; without one the demo chooses.
SRC ?=
# Added to the command lines of the tests, the benchmark and the soak run.
ARGS ?=

.PHONY: help setup demo test bench soak style types clean
.DEFAULT_GOAL := help
.NOTPARALLEL:

help: ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-6s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(READY) ## make .venv with everything in it; does nothing when nothing has changed

$(READY): pyproject.toml constraints.txt scripts/make-venv
	@scripts/make-venv $(VENV)
	@touch $@

demo: setup ## back up a folder (SRC=...) to two tiers, lose one, restore from either, compare
	@$(PYTHON) scripts/demo.py $(if $(SRC),"$(SRC)")

test: setup ## everything the tests need, and the tests
	@scripts/test-packages
	@$(PYTHON) -m pytest -n auto --dist loadgroup $(ARGS)

bench: setup ## compare with restic, borg and others: hours, tens of GB (ARGS=--quick: minutes)
	@scripts/test-packages bench
	@$(PYTHON) -m bench $(ARGS)

soak: setup ## the long campaigns (kills, power cuts, links that fail, ...); all of them without ARGS
	@scripts/test-packages
	@$(PYTHON) -m tests.soak $(ARGS)

style: setup ## ruff: rules and format
	@$(PYTHON) -m ruff check $(CODE)
	@$(PYTHON) -m ruff format --check $(CODE)

types: setup ## mypy, strict
	@$(PYTHON) -m mypy

clean: ## remove what demo, tests and tools have left (not .venv)
	rm -rf demo dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find $(CODE) -name __pycache__ -prune -exec rm -rf {} +
