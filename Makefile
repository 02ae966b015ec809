# Everything happens in .venv, at the versions in constraints.txt. `make help` lists the targets.

PYTHON ?= python3
# Arguments for pytest, such as ARGS="-k acdc"; by default one process a core.
ARGS ?= -n auto --dist loadgroup

# Arguments for benchmarks/bench.py, such as BENCH="--minutes 120".
BENCH ?=

BIN := .venv/bin
# One question, asked by four methods; then they are compared, and the circuits exported.
ASKED := ioi --model smollm2-135m --n 16 --seed 0 --overwrite

# Shows how far pip is: every tenth package, downloads of 10 MB and more, the last step. If it fails, all of its output.
PIP_LOG := .venv/pip.log
PIP_FAILED := .venv/pip.failed
PIP_PROGRESS := awk ' \
    /^Collecting / { if (++found % 10 == 0) print "  " found " packages found" } \
    /^ *Downloading .* \([0-9.]+ [MG]B\)/ { size = $$(NF - 1); sub(/^\(/, "", size); \
        if (size + 0 >= 10 || $$NF ~ /^G/) print "  downloading " $$2 " " $$(NF - 1) " " $$NF } \
    /^Installing collected packages/ { print "  installing " NF - 3 " packages" } \
    { fflush() }'
PIP_INSTALL = rm -f $(PIP_FAILED); \
    { $(BIN)/python -m pip install --no-input --disable-pip-version-check -c constraints.txt $(1) 2>&1 || touch $(PIP_FAILED); } \
        | tee $(PIP_LOG) | $(PIP_PROGRESS); \
    if [ -e $(PIP_FAILED) ]; then cat $(PIP_LOG) >&2; exit 1; fi
RUNTIME := .venv/installed-runtime
DEV := .venv/installed-dev

# pyright would ask a registry for a newer pyright at every run.
export PYRIGHT_PYTHON_IGNORE_WARNINGS := 1
# The theme would advertise its successor.
export NO_MKDOCS_2_WARNING := 1

.DEFAULT_GOAL := help
.PHONY: help setup demo test bench check declared docs format clean

help:  ## list the targets
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/  make \1\t\2/p' Makefile | expand -t 16

setup: $(DEV)  ## create .venv with what is needed to run and to develop

demo: $(RUNTIME)  ## IOI in SmolLM2-135M by four methods, compared and exported (installs the runtime only)
	$(BIN)/circuits discover $(ASKED) --method eap-ig --edges 200 --out runs/ioi
	$(BIN)/circuits discover $(ASKED) --method atp-star --positions all --out runs/ioi-atp-star
	$(BIN)/circuits discover $(ASKED) --method acdc --threshold 0.2 --out runs/ioi-acdc
	$(BIN)/circuits discover $(ASKED) --method coar --samples 200 --fit ridge --out runs/ioi-coar
	$(BIN)/circuits compare runs/ioi runs/ioi-atp-star runs/ioi-acdc runs/ioi-coar --samples 16 --alphas 0.05,0.1 \
	    --out runs/comparison.json --page runs/comparison.html
	$(BIN)/circuits export runs/ioi --out runs/ioi.tex --to tikz --max-edges 60 --overwrite
	$(BIN)/circuits export runs/ioi-acdc --out runs/ioi-acdc.graphml --overwrite
	$(BIN)/circuits view runs/ioi runs/ioi-acdc --out runs/ioi.html

test: $(DEV)  ## run all tests
	$(BIN)/python -m pytest $(ARGS)

bench: $(DEV)  ## measure the costs that README and docs quote; into runs/bench.md (20 minutes; nothing else should run)
	$(BIN)/python benchmarks/bench.py $(BENCH)

check: $(DEV)  ## all that CI checks: format, lint, types, documentation, tests
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/pyright
	$(BIN)/mkdocs build --strict --quiet
	$(BIN)/python -m pytest $(ARGS)

declared: $(DEV)  ## write down anew what methods declare: for the command line, and for the docs
	$(BIN)/python -m circuits.methods.catalogue
	$(BIN)/python docs/options.py

docs: $(DEV)  ## build the documentation into build/site
	$(BIN)/mkdocs build --strict --quiet

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
