# Every target sets up what it needs by itself; on an unchanged clone the set-up takes no time.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

# cuda, vulkan, rocm or none. Remembered: without it, the last choice in this clone stays (at first: none).
GPU ?=
# More options for a target's command: make test ARGS="-k policy -x"
ARGS ?=
# Tests wait more than they compute, so several run at a time.
TEST_JOBS ?= auto
PYTEST = $(BIN)/python -m pytest --numprocesses $(TEST_JOBS) --maxprocesses 4 --dist loadfile $(ARGS) \
	|| { [ $$? = 1 ] && $(BIN)/python -m tests.support.second_try $(ARGS); }
# Where `make install` puts a copy that does not need this clone any more.
PREFIX ?= /opt/moe-proxy

BIN := .venv/bin
# The environment's own Python where there is one, else the first Python of the system that is new enough.
FIND_PYTHON = if [ -x $(BIN)/python ]; then py=$(BIN)/python; else py=python3; \
	for p in python3 python3.14 python3.13 python3.12 python3.11; do \
	if $$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then py=$$p; break; fi; \
	done; fi
PREPARE = @$(FIND_PYTHON); "$${PYTHON:-$$py}" deploy/build/prepare.py --gpu "$(GPU)"

.PHONY: help setup demo test check fuzz bench serve install constraints rebuild clean

help: ## what can be made
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo "  GPU=cuda|vulkan|rocm|none chooses the build, CMAKE_ARGS in the environment adds CMake options,"
	@echo "  ARGS=... is passed on, PYTHON=... names another Python. See deploy/README.md."

setup: ## build llama.cpp and install everything into .venv
	$(PREPARE) --ready

demo: ## show live moves of experts on a small model
	$(PREPARE)
	@$(BIN)/moe-proxy demo $(ARGS)

serve: ## run the proxy on 127.0.0.1:11434 with ./policies
	$(PREPARE)
	@$(BIN)/moe-proxy serve $(ARGS)

test: ## run all tests
	$(PREPARE)
	@$(PYTEST)

check: ## lint, format, types, tests
	$(PREPARE)
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy $(wildcard proxy tests bench deploy/build setup.py)
	@$(PYTEST)

fuzz: ## look for bytes that our readers do not stand (SECONDS=60 for each; ARGS=TARGET...)
	$(PREPARE)
	@$(BIN)/python -c 'import atheris' 2>/dev/null || \
		$(BIN)/python -m pip install --quiet --constraint constraints.txt atheris
	@$(BIN)/python -m tests.fuzz.run --seconds $(or $(SECONDS),60) $(ARGS)

bench: ## short forms of all benches, some five minutes (one: .venv/bin/python -m bench.NAME; ARGS=--write)
	$(PREPARE)
	@$(BIN)/python -m bench.all $(ARGS)

install: ## install a copy for a service into PREFIX (default /opt/moe-proxy)
	$(PREPARE) --install "$(PREFIX)"

constraints: ## write constraints.txt anew, with the newest versions that fit
	@$(FIND_PYTHON); "$$py" deploy/build/constraints.py

rebuild: ## build llama.cpp again, whatever is cached (after a new GPU or driver)
	$(PREPARE) --rebuild

clean: ## remove what was made in this clone (the built llama.cpp stays in pip's cache)
	@rm -rf .venv .cache build *.egg-info .hypothesis .mypy_cache .pytest_cache .ruff_cache
	@find proxy tests bench deploy -name __pycache__ -prune -exec rm -rf {} + 2>/dev/null || true
	@find proxy -name '*.so' -delete
