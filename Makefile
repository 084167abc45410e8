# `make help` lists the targets. Everything runs in .venv, made on first use from requirements/*.lock.
.DEFAULT_GOAL := help
.PHONY: help demo up test compose-up compose-test check fix fuzz bench lock env env-dev clean

PY := .venv/bin/python
PORT ?= 8000
PYTEST_ARGS ?=
# Tests that run at once. A file's tests stay in one process, for they share what they started.
JOBS ?= 2
# The fast tests come first, those that start the whole platform last.
FOLDERS := $(filter-out %/__pycache__/,$(wildcard tests/*/))
LAST := tests/e2e/ tests/compose/
TIERS := $(filter tests/unit/,$(FOLDERS)) $(filter-out tests/unit/ $(LAST),$(FOLDERS)) $(filter $(LAST),$(FOLDERS))

help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: ## train, publish and query LeNet on Fashion-MNIST (KEEP=1 leaves it running)
	@since=$$(date +%s) && deploy/bootstrap.sh local && \
	$(PY) -m modelyard demo --since $$since --port $(PORT) $(if $(KEEP),--keep)

up: env ## start the platform on this machine, in the foreground
	@$(PY) -m modelyard up --port $(PORT)

test: env-dev ## run all tests, fast ones first
	@$(PY) -m pytest $(TIERS) -n $(JOBS) --dist loadfile $(PYTEST_ARGS)

compose-up: ## start the platform in containers, with random passwords made on the first time
	@deploy/secrets.sh
	docker compose up -d --build --wait

compose-test: env-dev ## train, publish, predict and break things in containers; needs Docker with Compose
	@MODELYARD_COMPOSE=required $(PY) -m pytest tests/compose $(PYTEST_ARGS)

check: env-dev ## format check, lint, types, import rules, tests
	$(PY) -m ruff format --check .
	$(PY) -m ruff check .
	$(PY) -m mypy
	.venv/bin/lint-imports
	@$(MAKE) --no-print-directory test

fix: env-dev ## format and mend what the linter can
	$(PY) -m ruff check --fix .
	$(PY) -m ruff format .

fuzz: env-dev ## 5,000 requests made from the API's description, to the API as it runs (CASES=n)
	@FUZZ_CASES=$(or $(CASES),5000) $(PY) -m pytest tests/fuzz -q -s $(PYTEST_ARGS)

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
