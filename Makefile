# make quickstart   set up .venv and run the whole loop: speech in, a warm-started speech LM, speech out
# make test         lint and the default tests (offline once set up)
# make thorough     the tests of seconds each that continuous integration runs as well
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/ready

.DEFAULT_GOAL := help
.PHONY: help setup quickstart test thorough lint bench assets clean

help:
	@echo "make quickstart   the whole loop on the bundled speech: report in runs/quickstart/report.html"
	@echo "make test         lint + default tests"
	@echo "make thorough     the tests of seconds each that continuous integration runs as well"
	@echo "make lint         ruff, mypy, import contracts"
	@echo "make bench        speed and memory, as ratios"
	@echo "make assets       rebuild the bundled speech, tokenizer, vocoder and suites (hours)"
	@echo "make clean        remove caches and the quickstart's output (keeps .venv)"

setup: $(READY)

$(READY): constraints.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	  echo "twistlm needs Python 3.11 or newer; '$(PYTHON)' is $$($(PYTHON) --version 2>&1). Name another: make PYTHON=python3.12 ..." >&2; exit 2; }
	@echo "setting up $(VENV): downloads several hundred MB once, takes a few minutes (log: $(VENV)/install.log)"
	@$(PYTHON) -m venv $(VENV) || { \
	  echo "'$(PYTHON) -m venv' failed: on Debian and Ubuntu, apt-get install python3-venv" >&2; exit 2; }
	@$(BIN)/python -m pip install --no-input -c constraints.txt -e '.[dev]' > $(VENV)/install.log 2>&1 || { \
	  tail -n 25 $(VENV)/install.log >&2; \
	  echo "installation failed: the last lines of $(VENV)/install.log stand above" >&2; exit 1; }
	@touch $@

quickstart: $(READY)
	@$(BIN)/twist quickstart $(ARGS)

# Python keeps what it has compiled, also where an image says it should not: else each of the tests' processes compiles it all again.
test thorough: export PYTHONDONTWRITEBYTECODE :=
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 3 --dist worksteal
test: lint
	$(PYTEST) -m "not slow and not network and not thorough"

thorough: $(READY)
	$(PYTEST) -m "thorough and not slow and not network"

lint: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy -n 2
	$(BIN)/lint-imports

bench: $(READY)
	@for file in benchmarks/*.py; do echo "== $$file"; $(BIN)/python "$$file" || exit 1; done

assets: $(READY)
	PATH="$(CURDIR)/$(BIN):$$PATH" bash runs/assets.sh

clean:
	rm -rf runs/quickstart .pytest_cache .ruff_cache .mypy_cache .hypothesis .import_linter_cache dist build
	find src tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +
