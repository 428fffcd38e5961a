# Everything runs in an environment of its own, made at the first call.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test test-all golden lint typecheck bench docs docs-links clean

demo: .venv/ready  ## train JEM on the handwritten digits, evaluate it, report
	$(BIN)/python -m ebmjax.main --config=configs/jem_digits.py

test: .venv/ready  ## the tests that take up to ten seconds each
	$(BIN)/python -m pytest -n 2 -m "not slow"

test-all: .venv/ready  ## every test
	$(BIN)/python -m pytest -n 2

golden: .venv/ready  ## rewrites tests/golden after an intended change
	$(BIN)/python -m pip install --quiet -e '.[torch]' -c constraints.txt
	$(BIN)/python tests/golden_configs.py
	$(BIN)/python tests/golden_parity.py

lint: .venv/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

typecheck: .venv/ready  ## the pure modules and the public names
	$(BIN)/basedpyright --pythonpath $(BIN)/python

bench: .venv/ready  ## times a step against plain PyTorch's
	$(BIN)/python -m pip install --quiet -e '.[torch]' -c constraints.txt
	$(BIN)/python -m benchmarks

docs: .venv/docs-ready  ## the documentation, in docs/_build/html; warnings are errors
	$(BIN)/python -m sphinx -W --keep-going -q docs docs/_build/html

docs-links: .venv/docs-ready  ## looks for the documentation's links on the network
	$(BIN)/python -m sphinx -q -b linkcheck docs docs/_build/linkcheck

.venv/docs-ready: .venv/ready
	$(BIN)/python -m pip install --quiet -e '.[docs]' -c constraints.txt
	touch $@

.venv/ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet -e '.[test]' -c constraints.txt
	touch $@

clean:
	rm -rf .venv .venv-newest .pytest_cache docs/_build docs/_generated
