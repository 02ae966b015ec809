# Everything happens in .venv, at the versions in constraints.txt. `make help` lists the targets.

PYTHON ?= python3
# Arguments for pytest, such as ARGS="-k acdc"; by default one process a core.
ARGS ?= -n auto

BIN := .venv/bin
DEMO := $(BIN)/circuits discover ioi --model smollm2-135m --method eap-ig --edges 200 --n 64 --seed 0 --out runs/ioi --overwrite

# Silent if all goes well; if not, everything pip said.
PIP_LOG := .venv/pip.log
PIP_INSTALL = $(BIN)/python -m pip install --no-input --disable-pip-version-check -c constraints.txt $(1) \
    >$(PIP_LOG) 2>&1 || { cat $(PIP_LOG) >&2; exit 1; }
RUNTIME := .venv/installed-runtime
DEV := .venv/installed-dev

# pyright would ask a registry for a newer pyright at every run.
export PYRIGHT_PYTHON_IGNORE_WARNINGS := 1

.DEFAULT_GOAL := help
.PHONY: help setup demo test check format clean

help:  ## list the targets
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/  make \1\t\2/p' Makefile | expand -t 16

setup: $(DEV)  ## create .venv with what is needed to run and to develop

demo: $(RUNTIME)  ## discover the IOI circuit of SmolLM2-135M (installs the runtime only)
	$(DEMO)

test: $(DEV)  ## run all tests
	$(BIN)/python -m pytest $(ARGS)

check: $(DEV)  ## all that CI checks: format, lint, types, tests
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/pyright
	$(BIN)/python -m pytest $(ARGS)

format: $(DEV)  ## format, and mend what lint can mend
	$(BIN)/ruff check --fix --exit-zero
	$(BIN)/ruff format

clean:  ## remove .venv, caches, builds and runs/
	rm -rf .venv .pytest_cache .ruff_cache .hypothesis build dist runs
	find circuits tasks tests -name __pycache__ -prune -exec rm -rf {} +

# The stamps make a second run instant and a change of either file an install.
$(RUNTIME): pyproject.toml constraints.txt | $(BIN)/pip
	@echo "installing mech-circuits into .venv (minutes, the first time)"
	@$(call PIP_INSTALL,-e .)
	@touch $@

$(DEV): pyproject.toml constraints.txt | $(BIN)/pip
	@echo "installing mech-circuits[dev] into .venv (minutes, the first time)"
	@$(call PIP_INSTALL,-e '.[dev]')
	@touch $@ $(RUNTIME)

# pip, not python: it comes last, so an interrupted or pip-less venv is made again.
$(BIN)/pip:
	@command -v $(PYTHON) >/dev/null || { \
	    echo "error: there is no '$(PYTHON)'; name a Python 3.11 or later: make PYTHON=/path/to/python3.12 ..." >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	    echo "error: '$(PYTHON)' is `$(PYTHON) --version 2>&1`, and mech-circuits needs Python 3.11 or later;" \
	         "name another: make PYTHON=python3.12 ..." >&2; exit 1; }
	@$(PYTHON) -m venv --clear .venv || { rm -rf .venv; \
	    echo "error: '$(PYTHON) -m venv' failed (above); on Debian and Ubuntu install python3-venv," \
	         "or name another Python: make PYTHON=python3.12 ..." >&2; exit 1; }
