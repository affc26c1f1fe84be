# `make demo` and `make test` set everything up by themselves: Python 3.11 or newer and make are
# enough. `make help` lists the commands.
#
# On a machine where another build of torch is wanted:   make setup TORCH="torch==2.13.0"
# With a particular interpreter:                         make setup PYTHON=/path/to/python3.12

VENV   ?= .venv
OUT    ?= dst-out
TORCH  ?= torch==2.13.0
PYTHON ?=
ARGS   ?=

BIN   := $(VENV)/bin
READY := $(VENV)/.ready
DOCS_READY := $(VENV)/.ready-docs

# A Python that is new enough and can make environments (Debian splits that off as python3-venv).
FITS  := import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))
PIP   := $(BIN)/python -m pip --disable-pip-version-check -qq

.DEFAULT_GOAL := help
.PHONY: help setup demo test check format check-all bench docs clean

help: ## list these commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-10s %s\n", $$1, $$2}' Makefile

setup: $(READY) ## make .venv with everything in it (the other commands do this by themselves)
	@echo "ready      $(BIN)/dst"

demo: $(READY) ## explain one real hallucination of the embedded model; writes dst-out/report.html
	@$(BIN)/dst demo --out $(OUT)

test: $(READY) ## run the tests (ARGS="-k lens" for some of them)
	$(BIN)/python -m pytest $(ARGS)

check: $(READY) ## lint, format and types
	@failed=0; for step in "ruff check ." "ruff format --check ." mypy; do \
	  echo "$$step"; $(BIN)/$$step || failed=1; \
	done; exit $$failed

format: $(READY) ## put the code in the house format and mend what ruff can mend
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

check-all: check docs ## everything: checks, docs, all tests (also the long ones), each benchmark once
	$(BIN)/python -m pytest -m "full or not full" $(ARGS)
	DST_BENCH_SMOKE=1 $(MAKE) bench

bench: $(READY) ## measure speed and memory beside the other tools
	@set -e; for script in benchmarks/[a-z]*.py; do echo "== $$script"; $(BIN)/python $$script; done

docs: $(DOCS_READY) ## docs/*.md to HTML in build/docs; a dead link is an error
	$(BIN)/mkdocs build --quiet --strict
	@echo "build/docs/index.html"

clean: ## remove what was built or measured here; .venv stays
	rm -rf build dist dst-out .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -not -path './$(VENV)/*' -prune -exec rm -rf {} +

# torch comes first and alone: a looser requirement may choose a build with gigabytes of GPU
# libraries. Whichever build it is, the rest is then installed around exactly that one.
$(READY): pyproject.toml constraints.txt
	@set -e; \
	if ! $(BIN)/python -c '$(FITS)' >/dev/null 2>&1; then \
	  found=""; \
	  for python in $(or $(PYTHON),python3 python3.11 python3.12 python3.13 python3.14); do \
	    if "$$python" -c '$(FITS)' >/dev/null 2>&1; then found="$$python"; break; fi; \
	  done; \
	  if [ -z "$$found" ]; then \
	    echo "No Python 3.11 or newer with venv found (tried: $(or $(PYTHON),python3 python3.11 to python3.14))." \
	      "Install one (on Debian: python3 and python3-venv), or name it: make setup PYTHON=/path/to/python3" >&2; \
	    exit 1; \
	  fi; \
	  echo "setup 1/3  $$("$$found" --version) -> $(VENV)"; \
	  if [ -e $(VENV)/pyvenv.cfg ]; then clear=--clear; else clear=""; fi; \
	  "$$found" -m venv $$clear $(VENV); \
	else \
	  echo "setup 1/3  $(VENV) is there: $$($(BIN)/python --version)"; \
	fi
	@grep -v '^torch==' constraints.txt > $(VENV)/constraints.txt
	@echo "setup 2/3  $(TORCH) (the largest download)"
	@$(PIP) install -c $(VENV)/constraints.txt "$(TORCH)"
	@$(BIN)/python -c 'import importlib.metadata as m; print("torch==" + m.version("torch"))' >> $(VENV)/constraints.txt
	@echo "setup 3/3  dst and the packages in constraints.txt (a minute or two)"
	@$(PIP) install -c $(VENV)/constraints.txt -e ".[dev]"
	@touch $@

$(DOCS_READY): $(READY)
	@$(PIP) install -c $(VENV)/constraints.txt -e ".[docs]"
	@touch $@
