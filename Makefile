# make        what there is to make
# PY=python3  uses that interpreter as it is, with nothing installed into it

SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

# An active environment is used; conda's base counts as none. Otherwise .venv is made.
CONDA := $(if $(filter-out base,$(CONDA_DEFAULT_ENV)),$(CONDA_PREFIX))
ENV := $(or $(VIRTUAL_ENV),$(CONDA),$(CURDIR)/.venv)
PYTHON ?= python3
UV := $(shell command -v uv)
ifeq ($(origin PY),undefined)
PY := $(ENV)/bin/python
READY := $(ENV)/.framelab-setup
endif

WORKERS ?= 2
PYTEST := $(PY) -m pytest -q

.PHONY: help
help:  ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

.PHONY: setup
setup: $(READY)  ## the environment: an active one is used, otherwise .venv is made; again when the pins change

$(ENV)/bin/python:
ifdef UV
	$(UV) venv --python $(PYTHON) $(ENV)
else
	$(PYTHON) -m venv $(ENV)
endif

# uv does not read pip's own setting for a folder of wheels, so it is handed on.
$(ENV)/.framelab-setup: pyproject.toml constraints.txt | $(ENV)/bin/python
ifdef UV
	$(UV) pip install --python $(ENV)/bin/python $(addprefix --find-links ,$(PIP_FIND_LINKS)) -c constraints.txt -e '.[all]'
else
	$(ENV)/bin/python -m pip install --quiet -c constraints.txt -e '.[all]'
endif
	touch $@

.PHONY: quickstart
quickstart: $(READY)  ## data, two training runs, a table of accuracies, answers beside truths
	$(PY) -m launchers.train experiment=video_chatgpt_tiny_projector
	$(PY) -m launchers.train experiment=video_chatgpt_tiny
	$(PY) -m launchers.evaluate experiment=video_chatgpt_tiny ckpt=last
	$(PY) -m launchers.generate experiment=video_chatgpt_tiny ckpt=last

# One thread for each worker: many short tests, each too small to gain from more.
test slow: export OMP_NUM_THREADS ?= 1

.PHONY: test
test: $(READY)  ## unit tests, configurations, layers, and every tiny method once through all commands
	$(PYTEST) -n $(WORKERS) -m "not slow and not nightly"

.PHONY: check
check: lint types test slow  ## what CI runs: lint, types, tests, then the larger matrices and the learning rung

.PHONY: check-rest
check-rest: lint types slow  ## check without test

# Most of these wait for one process or another. A file stays with one worker, for the runs that its tests share.
.PHONY: slow
slow: $(READY)  ## two processes, kill and resume (one method and one preparation a day in turn), SLURM, notebooks, the default method learning
	$(PYTEST) -n $(WORKERS) --dist loadfile --no-loadscope-reorder -m "slow and not nightly"

.PHONY: nightly
nightly: lint types  ## everything
	$(PYTEST)

.PHONY: learn
learn: $(READY)  ## trains each tiny method until it reaches its stated number, and writes RESULTS.md
	FRAMELAB_WRITE_RESULTS=1 $(PYTEST) -s -m learning

.PHONY: genhancer-tiny
genhancer-tiny: $(READY)  ## both tiny modes of GenHancer: two stages, the shuffled control, the guard, and their tables in RESULTS.md
	FRAMELAB_WRITE_RESULTS=1 $(PYTEST) -s -m learning tests/projects/genhancer/test_learning.py

.PHONY: slurm
slurm:  ## the SLURM that tests/slurm starts on this machine (Debian, as root); without it they skip and say so
	apt-get update -qq
	apt-get install -qq --no-install-recommends slurm-wlm munge

.PHONY: faults
faults: $(READY)  ## puts every kind of fault into a run of each tiny method, and writes the count into RESULTS.md
	FRAMELAB_WRITE_FAULTS=1 $(PYTEST) -s tests/faults

.PHONY: golden
golden: $(READY)  ## records the golden numbers again; look at the difference before you commit it
	FRAMELAB_UPDATE_GOLDEN=1 $(PYTEST) -m golden

.PHONY: lint
lint: $(READY)  ## ruff, without changing a file
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .

.PHONY: format
format: $(READY)  ## ruff, changing files
	$(PY) -m ruff check --fix .
	$(PY) -m ruff format .

.PHONY: types
types: $(READY)  ## mypy: strict on common and launchers
	$(PY) -m mypy

.PHONY: clean
clean:  ## removes caches of tools; data, outputs and the environment stay
	rm -rf .mypy_cache .pytest_cache .ruff_cache build *.egg-info
	find common launchers projects tests -name __pycache__ -type d -prune -exec rm -rf {} +
