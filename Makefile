# make demo: install and draw digits and prompts.   make test: install what the tests need and run all but the slow ones.
# make bench: speed and memory, beside other libraries; make bench BENCH=--quick: does it run at all?
# make results: the README's table of results from what was measured; make results RESULTS=--remeasure measures again.
# make jupyter: opens the book in JupyterLab, to run its chapters and change them.
# make book: the book as a site.   make notebooks: execute its chapters anew.   make check-book: are they still true?

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
INPUTS := pyproject.toml constraints.txt
PYTEST := OMP_NUM_THREADS=1 $(BIN)/pytest --numprocesses auto --dist worksteal  # one test on each core
BENCH  :=
JUPYTER :=
RESULTS :=

.PHONY: demo test test-full bench results jupyter notebooks check-book book clean

demo: $(VENV)/installed
	$(BIN)/fromnoise sample mnist --n 30 --steps 35 --guide mnist-guide --guidance 2 --guidance-interval 1 6 --out out/mnist.png
	$(BIN)/fromnoise sample mnist-conditional --n 30 --sampler dpmpp-2m --steps 30 --guidance 1.45 --guidance-interval 0.6 6 \
		--out out/mnist-conditional.png
	$(BIN)/fromnoise sample mini-sd --prompt "a large red seven in the middle on a blue background" --prompt "4 in white, top right, on black" \
		--prompt "a big yellow two above a small red one on green" --prompt "a small purple zero on the left, on orange" \
		--steps 15 --guidance 5 --seed 2 --out out/mini-sd.png
	$(BIN)/fromnoise sample emoji-sd --prompt "a large sloth on a yellow background" --prompt "a taco left of a turtle on blue" \
		--prompt "a big jack-o-lantern in the middle, on black" --prompt "a large woman astronaut with dark skin on orange" \
		--steps 15 --guidance 3 --out out/emoji-sd.png

test: $(VENV)/installed-test
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy & types=$$!; $(PYTEST) -m "not slow"; tests=$$?; wait $$types && exit $$tests  # side by side

test-full: $(VENV)/installed-test
	$(PYTEST)

bench: $(VENV)/installed-bench
	$(BIN)/python benchmarks/speed.py $(BENCH)

results: $(VENV)/installed-test
	$(BIN)/fromnoise results $(RESULTS)

jupyter: $(VENV)/installed-jupyter
	$(BIN)/jupyter lab --notebook-dir book book/00-start-here.ipynb $(JUPYTER)

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

$(VENV)/installed-jupyter: $(VENV)/installed
	$(BIN)/pip install --quiet --constraint constraints.txt --editable .[jupyter]
	@touch $@

$(VENV)/installed-test: $(VENV)/installed-bench
	$(BIN)/pip install --quiet --constraint constraints.txt --editable .[test]
	@touch $@

# its dependencies would bring a torchvision that may not fit this torch, and that its network does not use
$(VENV)/installed-bench: $(VENV)/installed
	$(BIN)/pip install --quiet --constraint constraints.txt --editable .[bench]
	$(BIN)/pip install --quiet --constraint constraints.txt --no-deps denoising-diffusion-pytorch
	@touch $@

clean:
	rm -rf $(VENV) out build dist book/_build book/generated
