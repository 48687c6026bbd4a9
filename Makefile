# Everything a person does with a checkout. `make run` and `make test` need make and Python 3.11+, nothing else.

PYTHON ?= python3
export PIP_DISABLE_PIP_VERSION_CHECK := 1
unexport PYTHONDONTWRITEBYTECODE # the tests start hundreds of processes, each of which would compile the sources anew
VENV := .venv
PY := $(VENV)/bin/python
NPM := $(PY) scripts/npm.py --prefix web
TORCH_CPU := https://download.pytorch.org/whl/cpu
STATIC := src/kartina/api/static/index.html
SIDE_BY_SIDE := -n auto --dist loadfile --no-loadscope-reorder # tests have one thread each, so a process a core
WEB := $(shell find web/src web/public web/index.html web/vite.config.ts web/tsconfig.json -type f 2>/dev/null)

.PHONY: help setup run test test-all checks contract-tests page-tests bench lint format ui constraints clean

help: ## Show this list
	@grep -E '^[a-z-]+:.*##' Makefile | sed 's/:.*## /\t/' | expand -t 14

setup: $(VENV)/.dev $(STATIC) ## Make .venv with everything, and build the page

run: $(VENV)/.app $(STATIC) ## Start the service and print its URL
	@$(VENV)/bin/kartina serve $(ARGS)

test: CHOSEN := and not slow
test: checks ## What CI runs: lint, types, layers, tests, browser (under 20 minutes on 2 cores)

test-all: checks ## Also the long tests

# The browser's driver keeps an event loop in its process, so its tests have a process of their own; they wait more than
# they work, and one core is enough for them. The other has the checks of the text and the families' contract meanwhile,
# and no more: with both cores at work, the browser and the services wait for each other. What they print comes at their
# ends.
checks:
	@$(MAKE) --no-print-directory --jobs=2 setup
	@$(MAKE) --no-print-directory --jobs=2 --output-sync=target contract-tests page-tests CHOSEN="$(CHOSEN)"
	$(PY) -m pytest tests --ignore=tests/contract -m "not browser $(CHOSEN)" $(SIDE_BY_SIDE)

contract-tests: lint
	$(PY) -m pytest tests/contract -m "not browser $(CHOSEN)"

page-tests: $(VENV)/.dev $(STATIC)
	$(NPM) run --silent test
	$(PY) -m pytest tests/browser -m "browser $(CHOSEN)"

bench: $(VENV)/.dev ## Measure what is claimed about speed, here (ARGS=--quick: a minute or two)
	$(PY) -m benchmarks $(ARGS)

lint: $(VENV)/.dev web/node_modules/.stamp ## ruff, mypy, import-linter, biome
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports --no-cache
	$(NPM) run --silent lint

format: $(VENV)/.dev ## Format the code
	$(VENV)/bin/ruff check --fix . && $(VENV)/bin/ruff format .

ui: $(STATIC) ## Build the page

# -- environment ----------------------------------------------------------------------------------------------------

# uv takes seconds where pip takes minutes; where it fails, a proxy say, pip may know better.
define install
	$(PY) -m uv pip install -q -c constraints.txt $$($(PY) scripts/uv_settings.py) $(1) \
		|| $(PY) -m pip install -q -c constraints.txt $(1)
endef
DEV := ".[ui,dev]" # a comma would end an argument of call

$(PY):
	@$(PYTHON) scripts/check_python.py
	$(PYTHON) -m venv $(VENV)
	$(PY) -m pip install -q -c constraints.txt uv

$(VENV)/.torch: constraints.txt | $(PY)
	$(call install,"torch==2.13.*" $$($(PY) scripts/torch_index.py $(TORCH_CPU))) \
		|| $(PY) -m pip install -q -c constraints.txt "torch==2.13.*"
	@touch $@

$(VENV)/.app: pyproject.toml constraints.txt $(VENV)/.torch
	$(call install,-e ".[ui]")
	@touch $@

$(VENV)/.dev: $(VENV)/.app
	$(call install,-e $(DEV))
	@touch $@

web/node_modules/.stamp: web/package-lock.json web/package.json | $(VENV)/.app
	$(NPM) ci --loglevel=error --no-audit --no-fund
	@touch $@

$(STATIC): web/node_modules/.stamp $(WEB)
	$(NPM) run --silent build
	@touch $@

constraints: ## Write constraints.txt from what is installed now
	$(PY) -m pip list --format=freeze --exclude-editable | grep -vE '^(pip|setuptools|wheel)==' | sed 's/+.*//' > constraints.txt

clean: ## Remove what was built (not KARTINA_HOME)
	rm -rf $(VENV) web/node_modules src/kartina/api/static
