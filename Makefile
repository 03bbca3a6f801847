PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test lint docs clean

demo: $(VENV)/.installed  ## set up, then find factors in Shapes3D
	$(BIN)/python main.py --base configs/disdiff/shapes3d.yaml -t

test: $(VENV)/.installed  ## set up, then run the tests
	$(BIN)/python -m pytest

lint: $(VENV)/.installed  ## style and spelling of the code
	$(BIN)/ruff check .

docs: $(VENV)/.installed  ## build the pages of docs/ into build/site
	$(BIN)/python -m pip install --disable-pip-version-check --quiet -c constraints.txt -e '.[docs]'
	$(BIN)/mkdocs build

clean:  ## remove the environment, keep runs and data
	rm -rf $(VENV)

$(VENV)/.installed: setup.cfg pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit("Python 3.11 to 3.13 is needed: make PYTHON=python3.12 ..." if not (3, 11) <= sys.version_info < (3, 14) else 0)'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --disable-pip-version-check --quiet -c constraints.txt -e '.[test]'
	touch $@
