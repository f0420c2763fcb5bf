# Two commands: `make demo` and `make test`. Both set up .venv first; nothing needs root.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PLUGINS := $(wildcard plugins/*/pyproject.toml)
JOBS ?= $(shell nproc 2>/dev/null || echo 2)
STAMP := $(VENV)/.installed

.PHONY: demo test lint slow clean

$(STAMP): pyproject.toml constraints.txt $(PLUGINS)
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "Installing packages into $(VENV) (some minutes the first time)"
	@$(BIN)/python -m pip install -q -c constraints.txt -e '.[all,dev]' $(foreach p,$(PLUGINS),-e ./$(dir $(p)))
	@touch $@

demo: $(STAMP)
	@$(BIN)/python datasets/demo.py demo

test: $(STAMP) lint
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS)

slow: $(STAMP)
	@$(BIN)/python -m pytest -m slow

lint: $(STAMP)
	@$(BIN)/ruff check .

clean:
	rm -rf $(VENV) demo runs
