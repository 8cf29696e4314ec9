# Every target sets up what it needs: `make test` works in a fresh clone with Python 3.11 and make.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready

.PHONY: help setup test test-versions databases lint types imports fmt demo docs soak coq prove prove-mutants mutants mutants-map mutants-again reach clean

help:
	@echo "make demo    a story: three servers, a stolen capture, two kills, nothing lost"
	@echo "make test    everything that must hold, in minutes"
	@echo "make test-versions   the quick tests on each other Python that is installed"
	@echo "make lint    ruff: how the source looks, and what it had better not do (make fmt mends it)"
	@echo "make types   mypy --strict"
	@echo "make imports which package may import which"
	@echo "make docs    the pages of docs/ and a reference of all calls, as a site to search: build/site/index.html"
	@echo "make soak    the long campaigns"
	@echo "make reach   what simulated runs reach, package by package"
	@echo "make mutants every small mistake in what ships: which does no test notice?"
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

# The quick tests on the other versions of Python that are declared; which are not there is said.
test-versions: $(READY)
	$(BIN)/python -m tools.versions

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

# Every mutant of what ships, by the tests that reach it; goes on where it was interrupted.
mutants: mutants-map
	$(BIN)/python -m tools.mutants --log .mutants.log

# Which test reaches what: runs the files of tests that changed since, with marks in what ships.
mutants-map: $(READY)
	$(BIN)/python -m tools.mutants --map

# What was killed stays killed, where its function is the same; and a sample of functions that
# changed since that was written down, which is told, and fails nothing.
mutants-again: $(READY)
	$(BIN)/python -m tools.mutants --again --seconds 60
	$(BIN)/python -m tools.mutants --sample 5 --seconds 40 --report \
	  --changed $$(git log -1 --format=%H -- tools/mutants/killed.txt)

# The long campaigns: thousands of kills, half an hour of seeds, every mutant of what ships and of what is proved.
soak: $(SOLVERS) databases
	$(BIN)/python -m pytest -n 2 --dist loadgroup -m soak
	$(BIN)/wormspace sim --minutes 30
	$(MAKE) reach
	$(MAKE) prove-mutants
	$(MAKE) mutants

# What simulated runs alone reach of the product; fails below a floor.
reach: $(READY)
	$(BIN)/python tools/reach.py

# The site; a dead link, or a page that loads something from elsewhere, is an error.  (With --quiet,
# MkDocs would count no warnings.)
SITE := $(VENV)/.site

$(SITE): $(READY) requirements-docs.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-docs.lock
	@touch $(SITE)

docs: export NO_MKDOCS_2_WARNING = 1
docs: $(SITE)
	$(BIN)/mkdocs build
	@echo "build/site/index.html"

demo: $(READY)
	@$(BIN)/python examples/demo.py

fmt: $(READY)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
