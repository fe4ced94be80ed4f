# make demo: install and draw digits.   make test: install what the tests need and run them.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
INPUTS := pyproject.toml constraints.txt

.PHONY: demo test test-full clean

demo: $(VENV)/installed
	$(BIN)/fromnoise sample mnist --n 30 --out out/mnist.png
	$(BIN)/fromnoise sample mnist-conditional --n 30 --out out/mnist-conditional.png

test: $(VENV)/installed-test
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/pytest -m "not slow"

test-full: $(VENV)/installed-test
	$(BIN)/pytest

$(VENV)/installed: $(INPUTS)
	@$(PYTHON) -c 'import sys; sys.exit("fromnoise needs Python 3.11 or newer: make PYTHON=python3.12" if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt --editable .
	@touch $@

$(VENV)/installed-test: $(VENV)/installed
	$(BIN)/pip install --quiet --constraint constraints.txt --editable .[test]
	@touch $@

clean:
	rm -rf $(VENV) out build dist
