# One command a task; `make` alone lists them. Needs Python 3.11 or newer, make, and the Python package index.
SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

# The first Python that is new enough and can make virtual environments; or say: make PYTHON=/usr/bin/python3.12 test
PYTHON ?= $(shell for p in python3.13 python3.12 python3.11 python3 python; do \
	$$p -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 && echo $$p && break; done)
VENV := .venv
BIN := $(VENV)/bin
WORKERS ?= 2
SEED ?= 1
SEEDS ?= 20000
ROUNDS ?= 110
ARGS ?=
BENCHMARKS := $(filter-out benchmarks/__init__.py benchmarks/measure.py benchmarks/nexmark_data.py,$(wildcard benchmarks/*.py))

.PHONY: help
help: ## List the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sort | awk -F ':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'

# --- the environment: made once, and again when what it is made of changes --------------------------------------------

$(BIN)/python:
	@test -n "$(PYTHON)" || { echo "no Python 3.11 or newer with venv found; try make PYTHON=/path/to/python" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.stamp-demo: setup.cfg pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[demo]'
	$(BIN)/python -m compileall -q lakeward
	@touch $@

$(VENV)/.stamp-all: setup.cfg pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[test,dev,demo]'
	$(BIN)/python -m compileall -q lakeward
	@touch $(VENV)/.stamp-demo $@

.PHONY: venv install
venv: $(VENV)/.stamp-all ## Make .venv with Lakeward and everything to work on it
install: $(VENV)/.stamp-all ## The same as venv

# --- every day --------------------------------------------------------------------------------------------------------

.PHONY: demo
demo: $(VENV)/.stamp-demo ## Kafka to Iceberg on this machine, killed twice, counted by an independent reader
	$(BIN)/lakeward demo $(ARGS)

.PHONY: test
test: $(VENV)/.stamp-all ## Run all tests but the long proofs (ARGS="-k files" picks some)
	$(BIN)/pytest -n $(WORKERS) --dist loadgroup -m "not soak" $(ARGS)

.PHONY: check
check: $(VENV)/.stamp-all ## Lint, format, types and import contracts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/pytest -q -p no:cacheprovider tests/tidy

.PHONY: format
format: $(VENV)/.stamp-all ## Format the code and mend what the linter can mend
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

.PHONY: docs
docs: $(VENV)/.stamp-all ## Run every example in docstrings, README and docs, and check links
	$(BIN)/pytest -q -n $(WORKERS) lakeward tests/docs $(ARGS)

.PHONY: bench-peers
bench-peers: $(VENV)/.stamp-all ## Lakeward beside Flink (needs Java 17), PyFlink, Bytewax and Quix
	test -x .venv-flink/bin/python || $(BIN)/python -m venv .venv-flink
	test -x .venv-peers/bin/python || $(BIN)/python -m venv .venv-peers
	.venv-flink/bin/pip install --quiet --disable-pip-version-check -r benchmarks/peers/flink-requirements.txt
	.venv-peers/bin/pip install --quiet --disable-pip-version-check -r benchmarks/peers/python-requirements.txt
	$(BIN)/python benchmarks/peers/run.py --chart docs/peers.png $(ARGS)

.PHONY: bench
bench: $(VENV)/.stamp-all ## Run the benchmarks, one after another (BENCHMARKS=benchmarks/state.py picks one)
	@for script in $(BENCHMARKS); do echo "== $$script"; $(BIN)/python $$script $(ARGS); done

# --- long proofs ------------------------------------------------------------------------------------------------------

.PHONY: simulate
simulate: $(VENV)/.stamp-all ## Simulate jobs under random faults: SEEDS=20000 of them from SEED=1 on
	$(BIN)/python -m lakeward.testing.simulation $(SEED) $(SEEDS)

.PHONY: kill
kill: $(VENV)/.stamp-all ## Kill a real job with -9 ROUNDS=110 times (each nearly always dies) against a real broker and a real table
	LAKEWARD_KILL_ROUNDS=$(ROUNDS) $(BIN)/pytest -m "soak and kill" -s tests/recovery $(ARGS)

.PHONY: kill-queries
kill-queries: $(VENV)/.stamp-all ## Kill every Nexmark query with -9 five times over each of three data sets
	$(BIN)/pytest -m "soak and kill" -s tests/nexmark $(ARGS)

.PHONY: queries
queries: $(VENV)/.stamp-all ## Compare every Nexmark query over each of three data sets, however it is run
	$(BIN)/pytest -n $(WORKERS) -m "soak or not soak" tests/nexmark/test_queries.py $(ARGS)

.PHONY: savepoints
savepoints: $(VENV)/.stamp-all ## Restore a savepoint at every parallelism from 1 to 8 to every other, with and without worker processes
	$(BIN)/pytest -n $(WORKERS) -m "soak or not soak" tests/golden/test_savepoints.py tests/recovery/test_process_savepoints.py $(ARGS)

.PHONY: damage
damage: $(VENV)/.stamp-all ## Damage every file of checkpoints and a savepoint in every way: 2,000 cases
	$(BIN)/pytest -n $(WORKERS) -m "soak or not soak" tests/golden/test_damaged_checkpoints.py $(ARGS)

.PHONY: soak
soak: $(VENV)/.stamp-all ## Every test that takes long
	$(BIN)/pytest -m soak $(ARGS)

.PHONY: clean
clean: ## Delete what tools and tests leave behind; keeps .venv
	rm -rf build dist demo-output *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +
