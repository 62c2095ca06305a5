# Two commands: `make demo` and `make test`. Both make their own virtual environment in .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet --constraint constraints.txt

.PHONY: demo test check types pytest long bench clean

demo: $(VENV)/.demo
	# torch warns at import where numpy is missing; nothing here needs it.
	PYTHONWARNINGS="ignore:Failed to initialize NumPy" $(BIN)/tritonseq demo

test: check types pytest

check: $(VENV)/.test
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

# Types are checked on the wheel: the mapping of kernels/ and models/ exists only there.
types: $(VENV)/.test
	rm -rf build
	$(PIP) --no-deps --no-build-isolation --target build/site .
	cd build && MYPYPATH=site ../$(BIN)/mypy --config-file ../pyproject.toml --cache-dir ../.mypy_cache -p tritonseq

# A worker per core, each with one thread of torch: the models of the tests are small.
pytest: $(VENV)/.test
	$(BIN)/pytest --numprocesses auto --dist worksteal

long: $(VENV)/.test
	$(BIN)/pytest --numprocesses auto --dist worksteal -m long

bench: $(VENV)/.bench
	$(BIN)/python benchmarks/bench_generate.py

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.demo: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) --editable '.[text]'
	touch $@

$(VENV)/.test: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) --editable '.[test]'
	touch $(VENV)/.demo $@

$(VENV)/.bench: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) --editable '.[bench]'
	touch $@

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .ruff_cache .mypy_cache
