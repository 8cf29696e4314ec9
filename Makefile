# Every target sets up what it needs: `make test` works in a fresh clone with Python 3.11 and make.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready

.PHONY: help setup test databases lint types imports fmt demo soak coq prove prove-mutants reach clean

help:
	@echo "make demo    a story: three servers, a stolen capture, two kills, nothing lost"
	@echo "make test    everything that must hold, in minutes"
	@echo "make lint    ruff, mypy --strict, import rules"
	@echo "make soak    the long campaigns"
	@echo "make reach   what simulated runs reach, package by package"
	@echo "make prove   the safety proofs, about the code that runs"

setup: $(READY)

$(READY): pyproject.toml requirements-dev.lock
	@command -v $(PYTHON) >/dev/null || { echo "$(PYTHON) not found: install Python 3.11 or later"; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "$(PYTHON) is older than 3.11: run make PYTHON=python3.11 ..."; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-dev.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --editable .
	@touch $(READY)

test: $(SOLVERS) databases
	$(BIN)/python -m pytest -n 2 --dist loadgroup -m "not soak"

# PostgreSQL, MariaDB and strace for tests; what cannot be installed is named and skipped.
databases:
	@sh tools/databases.sh

lint: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: $(READY)
	$(BIN)/mypy

imports: $(READY)
	$(BIN)/lint-imports

# The provers: two SMT solvers from requirements-prove.lock; Coq only where apt-get can install it.
SOLVERS := $(VENV)/.solvers

$(SOLVERS): $(READY) requirements-prove.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-prove.lock
	@touch $(SOLVERS)

coq:
	@command -v coqc >/dev/null || { test "$$(id -u)" = 0 && command -v apt-get >/dev/null \
	  && apt-get update -qq && apt-get install -y -qq --no-install-recommends coq >/dev/null; } \
	  || echo "Coq is not installed: its part of the proof will be skipped"

prove: $(SOLVERS) coq
	$(BIN)/python -m verification

prove-mutants: $(SOLVERS)
	$(BIN)/python -m verification.mutants

# The long campaigns: thousands of kills, half an hour of seeds, every mutant of the proved code.
soak: $(SOLVERS) databases
	$(BIN)/python -m pytest -n 2 --dist loadgroup -m soak
	$(BIN)/wormspace sim --minutes 30
	$(MAKE) prove-mutants

# What simulated runs alone reach of the product; fails below a floor.
reach: $(READY)
	$(BIN)/python tools/reach.py

demo: $(READY)
	@$(BIN)/python examples/demo.py

fmt: $(READY)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
