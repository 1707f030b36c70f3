# Everything starts here: `make run` on a fresh machine, `make test` before a commit.
VENV ?= .venv
# `make venv LANE=current` asks for a lane; left out, the first Python that works decides.
LANE ?=
PYTHON := $(VENV)/bin/python
# Processes that share the tests.
WORKERS ?= 2
STAMP := $(VENV)/.installed

# TFX and TensorFlow print thousands of lines a run.
export TF_USE_LEGACY_KERAS := 1
export TF_CPP_MIN_LOG_LEVEL := 3
export PYTHONWARNINGS := ignore
# pytest and the pipeline's own child processes: only what this Makefile installed.
unexport PYTHONPATH PYTHONHOME
# Without bytecode each of those processes compiles the pipeline's sources again.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help run test test-all mutants venv lock lint format doctor new-model notebooks gpu engines bench-gpu clean
.DEFAULT_GOAL := help

help: ## show this
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

run: $(STAMP) ## environment, data, pipeline, server, recommendations on the screen
	$(VENV)/bin/recsys demo

PYTEST = $(PYTHON) -m pytest -q --durations=15 --dist=loadfile --no-loadscope-reorder --max-worker-restart=100

# A third: some tests wait for servers and runs of their own.
test: WORKERS = 3
test: $(STAMP) ## the tests; ARGS="tests/models -k two_tower" runs some, WORKERS=0 in one process
	$(PYTEST) --numprocesses=$(WORKERS) $(ARGS)

# What failed is run once more, by itself, and both are in the log: a port that somebody took, a machine that stood still.
test-all: $(STAMP) ## the thorough tests too: CI runs them; what failed, once more
	$(PYTEST) --numprocesses=$(WORKERS) -m "not slow" $(ARGS) || { [ $$? = 1 ] && \
		$(PYTEST) --numprocesses=1 -m "not slow" --last-failed --last-failed-no-failures=none $(ARGS); }

mutants: $(STAMP) ## breaks the contract in one way after the other, and asks that a test notices
	$(PYTHON) -m pytest -q --numprocesses=$(WORKERS) -m slow tests/mutants

venv: $(STAMP) ## the environment alone; LANE=portable|current, RECSYS_PYTHON=/path/to/python

$(STAMP): setup.py pyproject.toml requirements/portable.txt requirements/current.txt requirements/find_python requirements/make_venv
	@requirements/make_venv $(VENV) $(LANE)
	@touch $@

doctor: $(STAMP) ## what is wrong with this machine and the mend, imports included
	$(VENV)/bin/recsys doctor --deep

lint: $(STAMP) ## style, format, types and unused dependencies; changes nothing
	@$(PYTHON) -m ruff check . && $(PYTHON) -m ruff format --check . || \
		{ echo "'make format' mends the format, and of the style what needs no thought" >&2; exit 1; }
	@$(PYTHON) -m mypy
	@$(PYTHON) -m deptry .

format: $(STAMP) ## lay the sources out and mend what ruff can
	$(PYTHON) -m ruff check --fix-only --quiet .
	$(PYTHON) -m ruff format .

new-model: $(STAMP) ## a model's file, registry entry and test; NAME=cdae TASK=retrieve KIND=profile [FAMILY= FROM=]
	$(PYTHON) tools/new_model.py $(NAME) --task "$(TASK)" --kind "$(KIND)" $(if $(FAMILY),--family $(FAMILY)) $(if $(FROM),--from $(FROM))

notebooks: $(STAMP) ## execute the notebooks headless; two of them read runs (RECSYS_OUTPUT, or runs/)
	cd notebooks && for notebook in *.ipynb; do ../$(VENV)/bin/jupyter-execute $$notebook || exit 1; done

gpu: $(STAMP) ## TensorFlow with CUDA into the environment
	requirements/make_venv $(VENV) "$(LANE)" gpu

engines: ## Prism, Beam's runner in Go, where Go is to be had; its tests are skipped without it
	requirements/make_engines

UV := $(shell uv --version >/dev/null 2>&1 && echo uv || echo .cache/tools/bin/uv)
COMPILE = $(UV) pip compile --quiet --generate-hashes --custom-compile-command 'make lock'
# Delete a .txt first (or pass UPGRADE=--upgrade) to move to newer versions.
lock: ## compile both locks from requirements/*.in; UPGRADE=--upgrade for newer versions
	$(COMPILE) $(UPGRADE) --python-version 3.10 --python-platform x86_64-manylinux_2_28 requirements/portable.in requirements/tools.in -o requirements/portable.txt
	$(COMPILE) $(UPGRADE) --python-version 3.12 --universal requirements/current.in requirements/tools.in -o requirements/current.txt

bench-gpu: $(STAMP) ## the table of a GPU, on MovieLens-100K; without one it says so
	@$(PYTHON) -m benchmarks.gpu

clean: ## caches and build leftovers; keeps .venv, runs and fetched data
	rm -rf build dist *.egg-info .pytest_cache .ruff_cache .cache/ci .cache/trixie
	find . -name __pycache__ -not -path './.venv*' -prune -exec rm -rf {} +
