# Needs make and Python 3.11 or newer; everything else is installed into .venv by the first target that needs it.

PYTHON ?= $(shell for python in python3 python3.13 python3.12 python3.11; do \
	$$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$python && break; done)
VENV := .venv
BIN := $(VENV)/bin
export PIP_DISABLE_PIP_VERSION_CHECK := 1

# Test processes at once; the machine's cores, and not more than four.
WORKERS ?= $(shell $(PYTHON) -c 'import os; print(max(1, min(4, os.cpu_count() or 1)))')

.DEFAULT_GOAL := help
.PHONY: help demo test compiled unit check format docs bench bench-apps apps-on-kafka verify-kafka soak mutants chaos chaos-apps suites clean

help:
	@echo "make demo    the same pipeline three times under the same faults: what is lost, what is doubled"
	@echo "make test    everything that must hold: style, types, imports, all tests"
	@echo "make compiled        the tests on a build whose core is compiled (a C compiler; about 15 minutes)"
	@echo "make check   style, types and import contracts only"
	@echo "make unit    check, and the tests that need no broker process"
	@echo "make bench   oncelog beside Apache Kafka and kfake, in one run (half an hour; BENCH=--quick: 12 minutes)"
	@echo "make bench-apps      applications: exactly once beside at least once, a loop by hand and Quix Streams (about 15 minutes)"
	@echo "make verify-kafka    oncelog verify on three nodes of Apache Kafka that are killed, stopped and frozen (Java, Maven; 15 minutes)"
	@echo "make apps-on-kafka   all tests of applications on Apache Kafka (Java, Maven; about 10 minutes)"
	@echo "make soak    the tests that run for long, and simulated worlds (MINUTES=60 SEED=1000000)"
	@echo "make mutants break the code in many small ways: which check notices each"
	@echo "make chaos   the broker killed, frozen, stopped, out of disk and out of time under oncelog verify (10 minutes)"
	@echo "make chaos-apps      whole applications killed, frozen, doubled and cut off, and their broker too; every result counted (10 minutes)"
	@echo "make suites  other people's clients and test suites, at full length (Java, Node, Go)"
	@echo "make docs    write the generated pages of docs/ anew"
	@echo "make format  format the code"
	@echo "make clean   remove .venv and all caches"
	@echo "PYTHON=python3.13, before or after any of them: which Python a new .venv is of; one that is there stays (make clean)"

$(BIN)/python:
	@test -n "$(PYTHON)" || { echo "oncelog needs Python 3.11 or newer; none was found (set PYTHON=...)" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/installed-demo: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --editable .
	@touch $@

$(VENV)/installed-dev: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	@touch $@ $(VENV)/installed-demo

demo: $(VENV)/installed-demo
	$(BIN)/python -m oncelog.demo

check: $(VENV)/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

unit: check
	$(BIN)/pytest -n $(WORKERS) tests/unit tests/properties tests/stories tests/contracts tests/house

test: check
	$(BIN)/pytest -n $(WORKERS) --dist loadfile -m "not soak"

# Built in the cache, from a clean copy of the sources: docs/decisions/compiled-core.md.
compiled: $(VENV)/installed-dev
	$(BIN)/python -m tests.compiled -n $(WORKERS) --dist loadfile -m "not soak"

# Simulated worlds of make soak: for how long, and from which seed on. A seed that fails is kept in tests/simulation/seeds.txt.
MINUTES ?= 60
SEED ?= 1000000
CHAOS_MINUTES ?= 10

soak: $(VENV)/installed-dev
	$(BIN)/pytest -m soak
	$(BIN)/python -m tests.simulation --minutes $(MINUTES) --seed $(SEED) --jobs $(WORKERS)

chaos: $(VENV)/installed-dev
	$(BIN)/python -m tests.chaos --minutes $(CHAOS_MINUTES) --seed $(SEED)

chaos-apps: $(VENV)/installed-dev
	$(BIN)/python -m tests.chaos.applications --minutes $(CHAOS_MINUTES) --seed $(SEED)

mutants: $(VENV)/installed-dev
	$(BIN)/python -m tests.mutants --jobs $(WORKERS)

suites: $(VENV)/installed-dev
	ONCELOG_SUITES=long $(BIN)/pytest -s tests/conformance/suites

bench: $(VENV)/installed-dev
	$(BIN)/python -m bench $(BENCH)

bench-apps: $(VENV)/installed-dev
	$(BIN)/python -m bench.apps $(BENCH)

apps-on-kafka: $(VENV)/installed-dev
	ONCELOG_SUITES=long $(BIN)/pytest -s tests/conformance/suites/test_apps_on_kafka.py

verify-kafka: $(VENV)/installed-dev
	$(BIN)/python -m tests.clusters --known

docs: $(VENV)/installed-dev
	$(BIN)/python -m oncelog.broker.documents

format: $(VENV)/installed-dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf $(VENV) build dist src/*.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find src tests bench -name __pycache__ -type d -prune -exec rm -rf {} +
