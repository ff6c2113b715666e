# Every target makes .venv from nothing if it is missing. PYTHON chooses the interpreter (3.11 to 3.13).
PYTHON ?= python3
BIN := .venv/bin

PIP := $(BIN)/python -m pip
# Exactly the locked files, each a wheel of a known hash: nothing is resolved and no setup.py runs.
LOCKED := $(PIP) install --quiet --no-deps --require-hashes --only-binary :all: --requirement
# Which build of torch to ask for first, `cpu` or `cuda`.
TORCH ?= $(if $(shell command -v nvidia-smi),cuda,cpu)
# Tests run in this many processes of one thread each.
WORKERS ?= 2
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses $(WORKERS) --dist worksteal

.PHONY: .venv lock demo test test-slow test-download check audit fix bench bench-kernels \
	bench-training clean

.venv: .venv/installed

# Where the indexes have no CPU build of the locked torch, or one of another hash, PyPI's build comes.
# The stamp comes last, so that an install that failed half-way is made again.
.venv/installed: pyproject.toml $(wildcard requirements/*.lock)
	$(PYTHON) -m venv .venv
	$(LOCKED) requirements/build.lock
	$(LOCKED) requirements/base.lock
	if [ $(TORCH) = cuda ] || ! $(LOCKED) requirements/torch-cpu.lock; \
		then $(LOCKED) requirements/torch.lock; fi
	$(PIP) install --quiet --no-deps --no-build-isolation --editable .
	touch $@

# The lock files and constraints.txt from pyproject.toml; `make lock UPGRADE=--upgrade` for new versions.
lock: .venv
	$(BIN)/python requirements/lock.py $(UPGRADE)

demo: .venv
	$(BIN)/sparsteer demo

test: .venv
	$(PYTEST) -m "not slow and not download and not gpu"

test-slow: .venv
	$(PYTEST) -m "slow and not download and not gpu"

test-download: .venv
	$(BIN)/python -m pytest -m download

check: .venv audit
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright

audit: .venv
	$(BIN)/python requirements/audit.py

fix: .venv
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: .venv
	$(BIN)/python benchmarks/bench_training_step.py
	$(BIN)/python benchmarks/bench_sparse_products.py

# Operators and whole steps against floors of the same run; on a GPU where there is one.
bench-kernels: .venv
	$(BIN)/python benchmarks/bench_kernels.py
	$(BIN)/python benchmarks/fill_docs.py docs/kernels.md

# Against sae-lens, eai-sparsify and dictionary_learning, which it installs into .peers/ once.
bench-training: .venv
	$(BIN)/python benchmarks/bench_training.py
	$(BIN)/python benchmarks/bench_activation_cache.py --write-tokens 16000

clean:
	rm -rf .venv .peers
