# Everything sets itself up: `make demo` and `make test` need Python 3.11 or newer and nothing else.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

.DEFAULT_GOAL := help
.PHONY: help setup setup-dev demo test test-long test-lowest test-newest test-rliable faults fuzz audit soak evidence gpu docs links wheel \
	commands lint types imports clean

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/\1\t\2/p' $(firstword $(MAKEFILE_LIST)) | expand -t 12

demo: setup ## train DSAC-T on HalfCheetah for about four minutes (preset demo)
	$(BIN)/rlsuite train dsac_t --env HalfCheetah --preset demo --out runs/demo-$$(date -u +%Y%m%dT%H%M%SZ)

# One process a core; the tests of a file stay together, because their fixtures do. Those that start a Ray cluster
# come by themselves afterwards: two clusters at once wait for each other beyond Ray's own time limits.
test: setup-dev ## run the tests
	$(BIN)/python -m pytest -n logical --maxprocesses 8 --dist loadfile --ignore tests/launch
	$(BIN)/python -m pytest tests/launch

test-long: setup-dev ## run the minutes-long fault and learning matrices
	$(BIN)/python -m pytest -m long

test-lowest: ## run tests with the lowest versions that pyproject.toml allows, in an environment of their own
	PYTHON=$(PYTHON) .ci/test_bounds lowest

test-newest: ## run tests with the newest versions that pyproject.toml allows, in an environment of their own
	PYTHON=$(PYTHON) .ci/test_bounds newest

test-rliable: ## let rliable itself say again what the tests hold our statistics to
	test -x .venv-rliable/bin/python || $(PYTHON) -m venv .venv-rliable
	.venv-rliable/bin/python -m pip install --quiet 'rliable==1.2.0' 'arch<8' 'pandas<3'
	.venv-rliable/bin/python benchmarks/rliable_reference.py --check tests/report/rliable_reference.json

docs: setup-dev ## build the documentation in build/docs; a warning is an error
	$(BIN)/python -m sphinx -b html -W --keep-going -q docs build/docs

links: setup-dev ## ask every outside link of the documentation whether it still leads somewhere; needs the network
	$(BIN)/python -m sphinx -b linkcheck -q docs build/links

wheel: ## build sdist and wheel, check both, and try the wheel in a fresh environment outside the repository
	PYTHON=$(PYTHON) .ci/wheel

commands: setup-dev ## run the commands that README and docs show, in small: about an hour on one core
	$(BIN)/python docs/run_commands.py

faults: setup-dev ## run the twenty fault tests in their long form; counts to benchmarks/results/faults.csv
	RLSUITE_FAULT_COUNTS=benchmarks/results/faults.csv $(BIN)/python -m pytest tests/faults -m ''

MINUTES ?= 20
fuzz: setup-dev ## fuzz the readers of foreign files for MINUTES (20) of CPU time
	$(INSTALL) --no-build-isolation --editable '.[dev,fuzz]'
	$(BIN)/python tests/fuzz/run.py --cpu-minutes $(MINUTES)

audit: setup ## look the installed packages up among known vulnerabilities
	-@$(INSTALL) pip-audit
	.ci/audit $(BIN)/python

soak: setup ## train for half an hour with a stop and resume every two minutes
	$(BIN)/python benchmarks/soak.py --minutes 30 --run runs/soak-$$(date -u +%Y%m%dT%H%M%SZ) \
		--out benchmarks/results/soak.csv

evidence: setup-dev ## work off the long runs of benchmarks/evidence.toml, two at a time; stopped or killed, it goes on
	$(BIN)/python benchmarks/evidence.py

gpu: ## on a machine with CUDA: measure speed and memory, run the GPU tests, with the packages of PYTHON (python3)
	PYTHON=$(PYTHON) benchmarks/device.sh

lint: setup-dev ## check style and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: setup-dev ## check types
	$(BIN)/mypy

imports: setup-dev ## check who imports whom
	$(BIN)/lint-imports

clean: ## remove the virtual environment and all caches; runs stay
	rm -rf $(VENV) dist build docs/api .pytest_cache .ruff_cache .mypy_cache .import_linter_cache .hypothesis
	find rlsuite tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +

setup: $(VENV)/.core ## make .venv with what a run needs
setup-dev: $(VENV)/.dev ## make .venv with what tests and checks need

# Stamps lie in the environment: whoever deletes it deletes them too.
$(VENV)/.made:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo 'rlsuite needs Python 3.11 or newer: make PYTHON=/path/to/python3.11 ...' >&2; exit 1; }
	@$(PYTHON) -m venv --clear $(VENV) || \
		{ echo 'the venv module of Python is missing (Debian, Ubuntu: apt install python3-venv)' >&2; exit 1; }
	@touch $@

# torch first and alone: its exact build must not be decided by another package's bounds. The build backend
# is installed too, so that it has a pinned version and the install needs no second, isolated environment.
$(VENV)/.torch: $(VENV)/.made constraints.txt
	@echo 'installing torch and the rest into $(VENV): a few minutes, once'
	@$(INSTALL) torch
	@$(INSTALL) hatchling editables
	@touch $@

$(VENV)/.core: $(VENV)/.torch pyproject.toml
	@$(INSTALL) --no-build-isolation --editable .
	@touch $@

$(VENV)/.dev: $(VENV)/.torch pyproject.toml
	@$(INSTALL) --no-build-isolation --editable '.[dev]'
	@touch $@ $(VENV)/.core
