# `make help` lists the targets. Everything runs in .venv, made on first use from requirements/*.lock.
.DEFAULT_GOAL := help
.PHONY: help demo up test check fix bench lock env env-dev clean

PY := .venv/bin/python
PORT ?= 8000
PYTEST_ARGS ?=
# Tests that run at once. A file's tests stay in one process, for they share what they started.
JOBS ?= 2
# The fast tests come first, those that start the whole platform last.
FOLDERS := $(filter-out %/__pycache__/,$(wildcard tests/*/))
TIERS := $(filter tests/unit/,$(FOLDERS)) $(filter-out tests/unit/ tests/e2e/,$(FOLDERS)) $(filter tests/e2e/,$(FOLDERS))

help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: ## train, publish and query LeNet on Fashion-MNIST (KEEP=1 leaves it running)
	@since=$$(date +%s) && deploy/bootstrap.sh local && \
	$(PY) -m modelyard demo --since $$since --port $(PORT) $(if $(KEEP),--keep)

up: env ## start the platform on this machine, in the foreground
	@$(PY) -m modelyard up --port $(PORT)

test: env-dev ## run all tests, fast ones first
	@$(PY) -m pytest $(TIERS) -n $(JOBS) --dist loadfile $(PYTEST_ARGS)

check: env-dev ## format check, lint, types, import rules, tests
	$(PY) -m ruff format --check .
	$(PY) -m ruff check .
	$(PY) -m mypy
	.venv/bin/lint-imports
	@$(MAKE) --no-print-directory test

fix: env-dev ## format and mend what the linter can
	$(PY) -m ruff check --fix .
	$(PY) -m ruff format .

bench: env-dev ## measure everything anew and rewrite docs/benchmarks.md
	@$(PY) -m benchmarks

lock: ## resolve requirements/*.lock anew from pyproject.toml
	@deploy/lock.sh

env: # the environment to run it
	@deploy/bootstrap.sh local

env-dev: # the environment to work on it
	@deploy/bootstrap.sh dev

clean: ## remove .venv and caches; .modelyard, with data and models, stays
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache .import_linter_cache build dist *.egg-info
