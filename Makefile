# `make run` and `make test` need Python 3.11+ and nothing else: both set themselves up in .venv.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed

.DEFAULT_GOAL := help
.PHONY: help setup run test check chaos bench format clean

help:  ## what each target does
	@awk -F':.*## ' '/^[a-z]+:.*## /{printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(STAMP)  ## create .venv and install what is pinned in constraints.txt

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Metergate needs Python 3.11 or later; name one: make PYTHON=python3.12"; exit 2; }
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip -c constraints.txt
	$(BIN)/python -m pip install --quiet -c constraints.txt --group dev -e '.[all]'
	@touch $(STAMP)

run: $(STAMP)  ## the whole thing: embedded OpenMeter, an API, the gateway in front, keys to try; ARGS="--port 9100"
	@$(BIN)/metergate demo $(ARGS)

test: $(STAMP)  ## the ordinary tests, with branch coverage (under 5 minutes)
	$(BIN)/python -m pytest -n 2 --cov --cov-report=term -m 'not chaos'

check: $(STAMP)  ## ruff, mypy strict, the import rules
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

chaos: $(STAMP)  ## kills under load: 200 of the gateway and all, 100 of the embedded OpenMeter; then long property tests
	$(BIN)/python -m pytest -m chaos --timeout 7200 -s
	$(BIN)/python -m pytest -n 2 -m 'hypothesis and not chaos' --hypothesis-profile=long --timeout 7200

bench: $(STAMP)  ## figures beside peers, in one run
	$(BIN)/python -m pip install --quiet -c constraints.txt --group bench
	$(BIN)/python -m benchmarks

format: $(STAMP)  ## put the code in order
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:  ## remove what was built
	rm -rf .venv build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .coverage .coverage.*
