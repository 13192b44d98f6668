# The whole workflow of the project. `make help` lists the targets.
#
# The first target that needs it creates .venv: the interpreter is found by itself (PYTHON=
# overrides), every package comes from requirements.lock with its hash checked, and the two
# distributions of this repository are installed on top, editable.

.DEFAULT_GOAL := help
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
.SUFFIXES:
MAKEFLAGS += --no-builtin-rules

VENV := .venv
LOCK_VENV := .venv-lock
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --no-input
UV_VERSION := 0.13.8
# Test processes side by side. The tests marked e2e all go to one of them, in series.
WORKERS ?= 2
# Further options for pytest, for example: make test ARGS='-k mempool -x'
ARGS ?=

# A name that exists is not yet an interpreter that runs (pyenv's shims), so each is asked.
IS_SUPPORTED := import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))
FOUND_PYTHON = $(firstword $(foreach name,python3.11 python3.12 python3,$(shell \
	$(name) -c '$(IS_SUPPORTED)' >/dev/null 2>&1 && echo $(name))))

# PYTHON given on the command line or in the environment has a stamp of its own, so that asking
# for another interpreter builds the environment anew.
ifneq ($(filter undefined,$(origin PYTHON)),)
LOCKED := $(VENV)/.locked
CHOSEN_PYTHON = $(FOUND_PYTHON)
else
LOCKED := $(VENV)/.locked-$(subst /,_,$(PYTHON))
CHOSEN_PYTHON = $(PYTHON)
endif
INSTALLED := $(LOCKED)-installed

SEEDS ?= 300
JOBS ?= 2

.PHONY: help demo test check bench bench-aggregation bench-sync bench-updates env lock upgrade
.PHONY: bench-robustness format hooks clean
.PHONY: bench-aggregation-latency bench-stored-round sim test-slow soak

help: ## List the targets.
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-26s %s\n", $$1, $$2 }' Makefile

demo: $(INSTALLED) ## Train among four validators and eight participants, two of them hostile.
	@$(BIN)/quorate demo

test: $(INSTALLED) ## Run the tests but for the slow ones, on two processors.
	@$(BIN)/python -m pytest -n $(WORKERS) --dist loadgroup $(ARGS)

test-slow: $(INSTALLED) ## Run the tests that take minutes: whole networks under faults and attacks.
	@$(BIN)/python -m pytest -m slow $(ARGS)

# What `make soak` runs for, and the seed of its faults and attacks (drawn when none is given).
MINUTES ?= 10
SEED ?=

soak: $(INSTALLED) ## Faults and attacks at random for MINUTES=n; figures in out/soak.
	@$(BIN)/python -m tests.e2e.soak --minutes $(MINUTES) $(if $(SEED),--seed $(SEED))

check: $(INSTALLED) ## Run ruff, mypy, import-linter and the tests of the code's own form.
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-logo
	@$(BIN)/python -m pytest -q tests/test_tidy.py tests/test_repository.py

bench: $(INSTALLED) ## Measure four validators: blocks, transfers, latency, updates, rules.
	@mkdir -p out
	@$(BIN)/python -m bench.network --json out/bench.json $(ARGS)

bench-aggregation: $(INSTALLED) ## Time each aggregation rule; goes on with what is in out.
	@mkdir -p out
	@$(BIN)/python -m bench.aggregation --results out/bench-aggregation.jsonl \
	  --json out/bench-aggregation.json $(ARGS)

bench-aggregation-latency: $(INSTALLED) ## Measure block intervals while validators aggregate.
	@mkdir -p out
	@$(BIN)/python -m bench.aggregation_latency --json out/bench-aggregation-latency.json $(ARGS)

bench-stored-round: $(INSTALLED) ## Aggregate 6 GB of updates in a node's way; takes 7 GB of disk.
	@mkdir -p out
	@$(BIN)/python -m bench.stored_round --json out/bench-stored-round.json $(ARGS)

sim: $(INSTALLED) ## Simulate a network under faults, SEEDS=n times, in JOBS=n processes.
	@$(BIN)/python -m tests.simulation --seeds $(SEEDS) --jobs $(JOBS)

bench-robustness: $(INSTALLED) ## Train under each rule and each attack: clean and worst accuracy.
	@mkdir -p out
	@$(BIN)/quorate bench robustness --results out/robustness.jsonl \
	  --figure out/robustness.svg $(ARGS)

bench-sync: $(INSTALLED) ## Measure how fast a fresh node catches up.
	@mkdir -p out
	@$(BIN)/python -m bench.sync --json out/bench-sync.json $(ARGS)

bench-updates: $(INSTALLED) ## Measure a training round of 16 updates of 20 MB on four validators.
	@mkdir -p out
	@$(BIN)/python -m bench.updates --json out/bench-updates.json $(ARGS)

env: $(INSTALLED) ## Create .venv and install everything (the other targets do it by themselves).

lock: $(LOCK_VENV)/bin/uv ## Write requirements.lock anew; pins that still fit stay.
	@$(call COMPILE_LOCK,)

upgrade: $(LOCK_VENV)/bin/uv ## Write requirements.lock with the newest versions in range.
	@$(call COMPILE_LOCK,--upgrade)

format: $(INSTALLED) ## Lay the code out as `make check` wants it.
	@$(BIN)/ruff check --quiet --fix-only .
	@$(BIN)/ruff format .

hooks: $(INSTALLED) ## Run the quick checks before each commit.
	@$(BIN)/pre-commit install

clean: ## Remove .venv and everything else that was generated.
	rm -rf $(VENV) $(LOCK_VENV) build dist out sdk/build sdk/dist \
	  .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache *.egg-info sdk/*.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# --- the environment -----------------------------------------------------------------------------

# Everything that is missing is told in one line, with the command that brings it.
define CHECK_MACHINE
python="$(CHOSEN_PYTHON)"; missing=""; packages=""; \
lack() { missing="$$missing, $$1"; packages="$$packages $$2"; }; \
if [ -z "$$python" ]; then \
  lack "Python 3.11 or 3.12" "python3"; \
elif ! "$$python" -c '$(IS_SUPPORTED)' >/dev/null 2>&1; then \
  echo "Quorate: $$python is not Python 3.11 or 3.12 (3.13 lacks plyvel and fastecdsa)." >&2; \
  exit 1; \
fi; \
if [ -z "$$python" ] || ! "$$python" -c 'import ensurepip, venv' >/dev/null 2>&1; then \
  lack "the venv module" "python3-venv"; \
fi; \
if [ -z "$$python" ] || ! "$$python" -c 'import os, sys, sysconfig as s; \
    sys.exit(not os.path.exists(os.path.join(s.get_path("include"), "Python.h")))'; then \
  lack "Python.h" "python3-dev"; \
fi; \
compiler="$$(command -v gcc || command -v cc || true)"; \
if [ -z "$$compiler" ]; then lack "a C compiler" "gcc"; fi; \
if [ -z "$$compiler" ] || ! echo '#include <gmp.h>' | "$$compiler" -E -x c - >/dev/null 2>&1; then \
  lack "gmp.h" "libgmp-dev"; \
fi; \
if [ -n "$$missing" ]; then \
  echo "Quorate: missing here: $${missing#, }. On Debian: apt-get install$$packages" >&2; exit 1; \
fi
endef

# setuptools goes first: it builds what has no wheel, without pip fetching an unlocked one.
$(LOCKED): requirements.lock
	@$(CHECK_MACHINE)
	@echo "Quorate: installing the locked packages into $(VENV); the first time takes a minute or two."
	@$(CHOSEN_PYTHON) -m venv --clear $(VENV)
	@awk '/^setuptools==/ { on = 1 } on { print } on && !/\\$$/ { exit }' requirements.lock \
	  > $(VENV)/setuptools.lock
	@$(PIP) install -qq --no-deps --require-hashes -r $(VENV)/setuptools.lock
	@$(PIP) install -qq --no-deps --no-build-isolation --require-hashes -r requirements.lock
	@touch $(VENV)/.locked $@

$(INSTALLED): $(LOCKED) pyproject.toml sdk/pyproject.toml
	@$(PIP) install -qq --no-deps --no-build-isolation --no-index -e sdk -e .
	@if ! report="$$($(PIP) check)"; then \
	  echo "$$report" >&2; \
	  echo "Quorate: requirements.lock no longer fits pyproject.toml; renew it: make lock" >&2; \
	  exit 1; \
	fi
	@touch $(VENV)/.locked-installed $@

# Apart from .venv, so that a lock which no longer fits pyproject.toml can always be written anew.
$(LOCK_VENV)/bin/uv:
	@$(CHECK_MACHINE)
	@$(CHOSEN_PYTHON) -m venv --clear $(LOCK_VENV)
	@$(LOCK_VENV)/bin/python -m pip --disable-pip-version-check install -qq uv==$(UV_VERSION)

# Names, versions and hashes alone: no address of a registry goes into the file. The lock is
# replaced only when it changed, so that .venv is not built anew for nothing.
COMPILED_LOCK := $(LOCK_VENV)/requirements.lock
define COMPILE_LOCK
cp requirements.lock $(COMPILED_LOCK); \
$(LOCK_VENV)/bin/uv pip compile --quiet pyproject.toml --extra demo --group dev \
  --universal --fork-strategy fewest --python-version 3.11 --generate-hashes \
  --no-emit-package quorate --no-emit-index-url --no-emit-find-links --no-annotate \
  --custom-compile-command "make lock" --output-file $(COMPILED_LOCK) $(1); \
cmp --silent $(COMPILED_LOCK) requirements.lock || cp $(COMPILED_LOCK) requirements.lock
endef
