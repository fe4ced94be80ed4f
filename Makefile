# make demo: install and draw digits.   make test: install what the tests need and run them.
# make book: the book as a site.   make notebooks: execute its chapters anew.   make check-book: are they still true?

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
INPUTS := pyproject.toml constraints.txt

.PHONY: demo test test-full notebooks check-book book clean

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

notebooks: $(VENV)/installed-test
	$(BIN)/python book/notebooks.py write

check-book: $(VENV)/installed-test
	$(BIN)/python book/notebooks.py check

book: $(VENV)/installed-test
	$(BIN)/sphinx-build --quiet --fail-on-warning --keep-going --builder html book book/_build/html
	$(BIN)/python book/check_site.py book/_build/html

$(VENV)/installed: $(INPUTS)
	@$(PYTHON) -c 'import sys; sys.exit("fromnoise needs Python 3.11 or newer: make PYTHON=python3.12" if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt --editable .
	@touch $@

$(VENV)/installed-test: $(VENV)/installed
	$(BIN)/pip install --quiet --constraint constraints.txt --editable .[test]
	@touch $@

clean:
	rm -rf $(VENV) out build dist book/_build book/generated
