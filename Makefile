# Everything works from a fresh checkout with Python 3.11+ and make; .venv is set up on first use and reused while
# constraints.txt and pyproject.toml stay as they are.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
PEERS  := build/peers
LIBRARIES := gradsim_assets/core/analysis/report/libraries

# A machine's wish for no bytecode would have every process of ours compile the package anew.
unexport PYTHONDONTWRITEBYTECODE
export GRADSIM_HOME ?= $(CURDIR)/.gradsim

.DEFAULT_GOAL := help
.PHONY: help demo ui docs test test-slow test-slurm test-architectures test-ui e2e-k8s bench bench-peers demo-weights golden-numbers libraries lint format constraints clean

help: ## Show the targets
	@grep -hE '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  %-18s %s\n", $$1, $$2}'

$(STAMP): constraints.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "gradsim needs Python 3.11 or newer; set PYTHON=..."; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "Setting up .venv (once; about 6 GB with torch) ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade -c constraints.txt pip
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[compute,dev]'
	@touch $@

demo: $(STAMP) ## Run the main job on the embedded default and say where the report is
	@$(BIN)/gradsim demo

ui: $(STAMP) ## Open the Dagster UI
	@$(BIN)/gradsim ui

# The theme's notice of its makers' next tool is no finding of ours.
MKDOCS = NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs

docs: $(STAMP) ## Serve the documentation on this machine, and build it anew while it is written
	@$(MKDOCS) serve --livereload

test: $(STAMP) ## Run the tests
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile

test-slow: $(STAMP) ## Run the tests that take minutes
	@$(BIN)/python -m pytest -m slow

test-architectures: $(STAMP) ## Run the tests on every causal language model of transformers (minutes)
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 -m architectures

test-ui: $(STAMP) ## Run the tests that drive a browser (needs Chromium)
	@$(BIN)/python -m pytest -m ui

test-slurm: $(STAMP) ## Run the tests on a SLURM cluster of this machine alone (needs slurm-wlm and munge)
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m slurm -rs

e2e-k8s: $(STAMP) ## Run the end-to-end test on the cluster of the current kubectl context
	@$(BIN)/python -m pytest -m cluster

bench: $(STAMP) ## Measure the engine and the analyses; writes build/bench/*.json
	@$(BIN)/python -m bench.engine
	@$(BIN)/python -m bench.analyses

# Its environment borrows everything from .venv, so that torch is not downloaded a second time.
$(PEERS)/.installed: $(STAMP)
	@$(BIN)/python -m venv $(PEERS)
	@$(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))' \
	   > "$$($(PEERS)/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/borrowed.pth"
	@$(PEERS)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt kronfluence==1.0.1 dattri==0.3.0 \
	   bergson==2.5.1 dattri-llm==0.1.0
	@touch $@

bench-peers: $(PEERS)/.installed ## Measure the engine beside other tools; writes build/bench/peers*.json
	@TQDM_DISABLE=1 $(PEERS)/bin/python -W ignore -m bench.peers
	@TQDM_DISABLE=1 $(PEERS)/bin/python -W ignore -m bench.peers_ekfac

demo-weights: $(STAMP) ## Train the demo's models as their recipes say; their weights come with the package
	@$(BIN)/python -m gradsim_assets.demo.train

golden-numbers: $(STAMP) ## Record what the engine computes, after its declared numerics version was raised
	@$(BIN)/python -m gradsim_assets_tests.support.golden_numbers

libraries: ## Bundle the JavaScript that the report brings of others, as its package-lock.json names it (needs Node 20)
	@rm -rf build/libraries && mkdir -p build/libraries
	@cp $(LIBRARIES)/*.js $(LIBRARIES)/*.mjs $(LIBRARIES)/package*.json build/libraries/
	@cd build/libraries && npm ci --silent --no-audit --no-fund --ignore-scripts && node build.mjs $(CURDIR)/$(LIBRARIES)

# dg wants an environment that is activated, and writes nothing into the home.
DG = GRADSIM_HOME=$(CURDIR)/build/dg GRADSIM_CONFIG=gradsim.example.toml DAGSTER_DISABLE_TELEMETRY=yes \
     VIRTUAL_ENV=$(CURDIR)/$(VENV) PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/dg

lint: $(STAMP) ## Check style, types, definitions and the documentation's links
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(DG) check defs
	@$(MKDOCS) build --quiet

format: $(STAMP) ## Format the code
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

constraints: ## Write constraints.txt anew from pyproject.toml (downloads everything)
	@rm -rf build/constraints && $(PYTHON) -m venv build/constraints
	@build/constraints/bin/python -m pip install --quiet --upgrade pip
	@build/constraints/bin/python -m pip install --quiet '.[compute,dev,s3,gcs]'
	@{ echo "# Exact versions of everything, transitive dependencies too. \`make constraints\` writes this file anew."; \
	   build/constraints/bin/python -m pip freeze --all --exclude gradsim --exclude setuptools; } > constraints.txt
	@rm -rf build/constraints

clean: ## Remove what can be made again (.venv stays; .gradsim holds your tables and stays)
	@rm -rf build dist .mypy_cache .ruff_cache .pytest_cache
	@find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +
