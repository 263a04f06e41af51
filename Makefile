PYTHON ?= python3.11
BIN := .venv/bin
READY := .venv/.ready

.PHONY: help
help:  ## Show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "make %-11s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: setup
setup: $(READY)  ## Make .venv with the pinned versions (PYTHON=... chooses another Python)

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check \
		--constraint constraints.txt \
		--editable '.[dev,figures,joblib,openai,optuna,qlora,slurm,tensorboard,wandb]'
	touch $@

.PHONY: quickstart
quickstart: setup  ## From ratings to a table in minutes, on real data and a small model
	$(BIN)/python -m persona_lab -m experiment=quickstart

.PHONY: benchmark
benchmark: setup  ## Measure the engine against its peers for 40 minutes (experiments/benchmark)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check \
		--constraint constraints.txt --editable '.[benchmark]'
	$(BIN)/python experiments/benchmark/run.py --out outputs/benchmark

.PHONY: test
test: setup  ## Run the tests, one process per core
	$(BIN)/python -m pytest --numprocesses logical --maxprocesses 4 --dist worksteal

.PHONY: check
check: setup  ## Lint, format, types, and which room imports which
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/pyright
	$(BIN)/lint-imports --no-logo

.PHONY: docs
docs: setup  ## Write docs/configuration.md again
	$(BIN)/python docs/configuration.py
