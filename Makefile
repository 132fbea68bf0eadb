# Everything from a fresh clone, with python3 and make alone:
#   make run     sets up and trains on the bundled digits (minutes on two cores)
#   make test    sets up and runs lint, types and tests
#   make docs    sets up and builds the site into docs/_build/html; warnings are errors
#   make coverage  runs the tests and says which lines of the library they run
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: run test lint types coverage docs install clean

run: $(VENV)/ready
	$(BIN)/python -m experiments.digits --workdir runs/digits --resume

test: lint types
	$(BIN)/python -m pytest -n 2 --dist worksteal

lint: $(VENV)/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/ready
	$(BIN)/mypy

coverage: $(VENV)/ready
	$(BIN)/python -m pytest -n 2 --dist worksteal --cov=puppet_jax --cov-report=term-missing:skip-covered

docs: $(VENV)/docs-ready
	$(BIN)/sphinx-build -q -W -j auto --keep-going -b html -c docs . docs/_build/html
	$(BIN)/python -m experiments.webpage --out docs/_build/html/tab

install: $(VENV)/ready

$(VENV)/ready: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable ".[test]"
	touch $@

$(VENV)/docs-ready: $(VENV)/ready
	$(BIN)/python -m pip install --quiet --editable ".[test,docs]"
	touch $@

clean:
	rm -rf $(VENV) docs/_build
