# Every target creates what it needs: a fresh Debian with Python 3.10 or later, git and make is enough.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
STAMP = $(VENV)/.installed
# The demo needs a third of the development tools: it has a place of its own where those are not installed.
DEMO_VENV = $(if $(wildcard $(STAMP)),$(VENV),.venv-demo)
# The tests start a thousand processes. Where PYTHONDONTWRITEBYTECODE is set, each would compile the package anew.
# pytest compiles the modules of tests in a way of its own.
COMPILE = $(BIN)/python -m compileall -q -x 'tests/.*/test_' journaltrack migrations tests
# What the tests write lies in memory where that has 2 GB to spare: waiting for a disk took half of the suite's time, and a
# process that is killed loses nothing that the kernel has.
MEMORY = $(shell df --output=avail,target -k /dev/shm 2>/dev/null | awk 'NR == 2 && $$1 > 2000000 {print $$2}')
TEMPORARY = $(if $(MEMORY),PYTEST_DEBUG_TEMPROOT=$(MEMORY))
# Two processes a core, and three for the whole suite: the tests wait for processes and servers. What pytest compiles is kept
# for the next run: 8 s of each process.
PER_CORE = 2
PYTEST = env -u PYTHONDONTWRITEBYTECODE $(TEMPORARY) $(BIN)/python -m pytest --dist worksteal -n $(shell expr $$(nproc) \* $(PER_CORE))
# SQLAlchemy 2.1, NumPy and others have left Python 3.10: it has pins of its own.
CONSTRAINTS = $(shell $(PYTHON) -c 'import sys; print("constraints-3.10.txt" if sys.version_info < (3, 11) else "constraints.txt")')
PINS = pyproject.toml constraints.txt constraints-3.10.txt
INSTALL = -m pip install --disable-pip-version-check --no-input --constraint $(CONSTRAINTS) --editable .

.PHONY: help demo test test-fast test-frameworks test-mlflow coverage soak lint format bench bench-quick bench-peers mutants screenshots docs dist image clean
help:  ## what there is
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/'

%/.made:
	@$(PYTHON) -c 'import sys; sys.exit("journaltrack needs Python 3.10 or later, this is " + sys.version.split()[0]) if sys.version_info < (3, 10) else None'
	@echo "Making the virtual environment $*"
	@$(PYTHON) -m venv $* || { echo "python3 -m venv failed: on Debian, apt-get install python3-venv" >&2; rm -rf $*; exit 1; }
	@$*/bin/python -m pip install --quiet --disable-pip-version-check --no-input --upgrade "pip>=25.1"
	@touch $@

$(STAMP): $(VENV)/.made $(PINS)
	@echo "Installing the development tools into $(VENV): 330 MB to download, 1 GB on disk"
	$(BIN)/python $(INSTALL) --group dev
	@touch $@

# Most of what moto, SciPy and scikit-learn hold is never imported here: its bytecode would be 130 MB.
.venv-demo/.installed: .venv-demo/.made $(PINS)
	@echo "Installing the demo into .venv-demo: 100 MB to download, 340 MB on disk"
	.venv-demo/bin/python $(INSTALL) --no-compile --group demo
	@touch $@

# torch first and by its version: by itself, pip would take a CUDA build of several GB for the others.
FRAMEWORKS = .venv-frameworks
$(FRAMEWORKS)/.installed: $(FRAMEWORKS)/.made $(PINS) constraints-frameworks.txt
	@echo "Installing the training frameworks into $(FRAMEWORKS): 0.6 GB to download, 2 GB on disk"
	$(FRAMEWORKS)/bin/python $(INSTALL) --constraint constraints-frameworks.txt torch==2.13.0
	$(FRAMEWORKS)/bin/python $(INSTALL) --constraint constraints-frameworks.txt --group frameworks
	@touch $@

MLFLOW = .venv-mlflow
$(MLFLOW)/.installed: $(MLFLOW)/.made pyproject.toml constraints-mlflow.txt
	@echo "Installing MLflow into $(MLFLOW): 220 MB to download, 900 MB on disk"
	$(MLFLOW)/bin/python -m pip install --disable-pip-version-check --no-input --constraint constraints-mlflow.txt --editable . --group mlflow
	@touch $@

demo: $(DEMO_VENV)/.installed  ## a real training run, offline, killed, resumed, synced to a local stand-in for AWS, audited
	env -u PYTHONDONTWRITEBYTECODE $(DEMO_VENV)/bin/python examples/demo.py

test: PER_CORE = 3
test: $(STAMP)  ## the suite
	$(COMPILE)
	$(PYTEST)

test-fast: $(STAMP)  ## units, the contract in memory, properties with few examples: under a minute
	$(COMPILE)
	JOURNALTRACK_SOAK=0.1 $(PYTEST) -m fast tests/unit tests/contract tests/properties

test-frameworks: $(FRAMEWORKS)/.installed  ## the loggers in real trainings with torch, Lightning, transformers, accelerate, Keras: 5 minutes
	env -u PYTHONDONTWRITEBYTECODE $(FRAMEWORKS)/bin/python -m pytest -n 2 --dist worksteal tests/frameworks

test-mlflow: $(MLFLOW)/.installed  ## MLflow's code logs into a journal, and deliveries to a real MLflow server: 5 minutes
	env -u PYTHONDONTWRITEBYTECODE MLFLOW_COMMAND=$(abspath $(MLFLOW)/bin/mlflow) $(MLFLOW)/bin/python -m pytest tests/mlflow

coverage: $(STAMP)  ## what of the package runs in unit, contract and property tests; fails below the gate in pyproject.toml
	$(COMPILE)
	JOURNALTRACK_SOAK=0.1 $(PYTEST) --cov --cov-report=term tests/unit tests/contract tests/migrations tests/properties

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

screenshots: $(STAMP)  ## the pictures of docs/pictures/; needs Chromium
	$(BIN)/python -m tests.browser.screenshots

$(VENV)/.docs: $(STAMP)
	@echo "Installing Sphinx into $(VENV): 20 MB to download, 70 MB on disk"
	$(BIN)/python $(INSTALL) --group docs
	@touch $@

# Both builders share what was read. Pages may link to elsewhere, and load nothing from there.
SPHINX = $(BIN)/python -m sphinx --fail-on-warning --keep-going --quiet --conf-dir docs/site --doctree-dir build/doctrees
docs: $(VENV)/.docs  ## the site of the documentation in build/docs, and the manual page in build/man; any warning fails
	$(SPHINX) --builder html . build/docs
	! grep -rlE '<(script|link|img)[^>]*(src|href)="(https?:)?//' build/docs --include='*.html'
	$(SPHINX) --builder man . build/man

dist: $(STAMP)  ## what a release uploads, in dist/: built from the sdist, checked, installed in an empty environment
	rm -rf build/lib build/bdist.* dist
	$(BIN)/python -m build
	$(BIN)/twine check --strict dist/*
	$(PYTEST) tests/test_packaging.py

image:  ## the image of the watcher, with Docker: journaltrack:VERSION
	docker build --file release/Dockerfile --tag journaltrack:$(shell sed -n 's/__version__ = "\(.*\)"/\1/p' journaltrack/_version.py) .

clean:  ## remove what was made
	rm -rf $(VENV) .venv-* .demo build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage*
