# Every target creates what it needs: a fresh Debian with Python 3.10 or later, git and make is enough.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
STAMP = $(VENV)/.installed
# The tests start a thousand processes. Where PYTHONDONTWRITEBYTECODE is set, each would compile the package anew.
COMPILE = $(BIN)/python -m compileall -q journaltrack migrations tests
# SQLAlchemy 2.1, NumPy and others have left Python 3.10: it has pins of its own.
CONSTRAINTS = $(shell $(PYTHON) -c 'import sys; print("constraints-3.10.txt" if sys.version_info < (3, 11) else "constraints.txt")')

.PHONY: help demo test test-fast soak lint format bench bench-quick bench-peers mutants clean
help:  ## what there is
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/'

$(STAMP): pyproject.toml constraints.txt constraints-3.10.txt
	@$(PYTHON) -c 'import sys; sys.exit("journaltrack needs Python 3.10 or later, this is " + sys.version.split()[0]) if sys.version_info < (3, 10) else None'
	@$(PYTHON) -m venv $(VENV) || { echo "python3 -m venv failed: on Debian, apt-get install python3-venv" >&2; rm -rf $(VENV); exit 1; }
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade "pip>=25.1"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint $(CONSTRAINTS) --editable . --group dev
	@touch $@

demo: $(STAMP)  ## a real training run, offline, killed, resumed, synced to a local stand-in for AWS, audited
	$(BIN)/python examples/demo.py

test: $(STAMP)  ## the suite
	$(COMPILE)
	$(BIN)/python -m pytest -n 2 --dist worksteal

test-fast: $(STAMP)  ## units, the contract in memory, properties with few examples: under a minute
	$(COMPILE)
	JOURNALTRACK_SOAK=0.1 $(BIN)/python -m pytest -n 2 --dist worksteal -m fast

soak: $(STAMP)  ## every attack SCALE times as often as in the suite, and a table of what was lost
	$(BIN)/python -m tests.soak $(SCALE)

mutants: $(STAMP)  ## change the core in COUNT places a module, and tell what no test notices; SEED, MODULE
	$(BIN)/python -m tests.mutants $(if $(SEED),--seed $(SEED)) $(if $(COUNT),--count $(COUNT)) $(if $(MODULE),--module $(MODULE))

lint: $(STAMP)  ## ruff, mypy and the import rule
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/mypy tests/typed_callers.py
	$(BIN)/lint-imports --no-logo

format: $(STAMP)  ## let ruff mend what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(STAMP)  ## measure, against the floors in the same run; QUICK=1: in under two minutes
	$(BIN)/python -m benchmarks $(if $(QUICK),--quick)

bench-quick: $(STAMP)  ## the same in under two minutes
	$(BIN)/python -m benchmarks --quick

bench-peers: $(STAMP)  ## other trackers and this one: latency, and what SIGKILL costs; QUICK=1: fewer calls, one round
	$(BIN)/python -m benchmarks.peers $(if $(QUICK),--quick)

clean:  ## remove what was made
	rm -rf $(VENV) .demo build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage*
