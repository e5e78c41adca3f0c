# A fresh machine needs Python 3.11 and make: everything else is installed into .venv.
PYTHON ?= python3.11
VENV ?= .venv
BIN := $(VENV)/bin
SDK := $(VENV)/.sdk
STAMP := $(VENV)/.installed

.PHONY: test demo lint clean

# Tests share two cores with whatever else runs: threads beyond one a process only get in each other's way.
test: export OMP_NUM_THREADS ?= 1
test: lint
	$(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist worksteal

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# What a user installs, and nothing of what training needs.
demo: $(SDK)
	$(BIN)/edgetrack demo --output demo

$(SDK): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade --constraint constraints.txt pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[cpu]'
	touch $@

$(STAMP): $(SDK)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable . --group dev
	touch $@

clean:
	rm -rf $(VENV) demo dist build .pytest_cache .mypy_cache .ruff_cache
