PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

# processes that run the tests: as many as there are cores, but no more than 8, as each imports PyTorch
WORKERS ?= auto

.PHONY: demo check test lint sizes docs clean

demo: $(VENV)/.installed  ## set up, then find factors in Shapes3D
	$(BIN)/python main.py --base configs/disdiff/shapes3d.yaml -t

check: test lint  ## what has to pass before a change goes in

test: $(VENV)/.installed  ## set up, then run the tests
	$(BIN)/python -m pytest -n $(WORKERS) --maxprocesses 8

lint: $(VENV)/.installed  ## style, spelling and types of the code
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/codespell
	$(BIN)/mypy

sizes: $(VENV)/.installed  ## the longest files and functions, and the widest constructors
	$(BIN)/python benchmarks/sizes.py

docs: $(VENV)/.installed  ## build the pages of docs/ into build/site
	$(BIN)/python -m pip install --disable-pip-version-check --quiet -c constraints.txt -e '.[docs]'
	$(BIN)/mkdocs build

clean:  ## remove the environment, keep runs and data
	rm -rf $(VENV)

$(VENV)/.installed: setup.cfg pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit("Python 3.11 to 3.13 is needed: make PYTHON=python3.12 ..." if not (3, 11) <= sys.version_info < (3, 14) else 0)'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --disable-pip-version-check --quiet -c constraints.txt -e '.[test,lint]'
	touch $@
