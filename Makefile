# Every target makes .venv from nothing if it is missing. PYTHON chooses the interpreter (3.11 to 3.13).
PYTHON ?= python3
BIN := .venv/bin

.PHONY: .venv demo test test-slow check fix bench bench-kernels bench-training clean

.venv: .venv/installed

# torch first: its index decides between the CPU and the CUDA build, and everything else asks for it.
# The stamp comes last, so that an install that failed half-way is made again.
.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

demo: .venv
	$(BIN)/sparsteer demo

test: .venv
	$(BIN)/python -m pytest -m "not slow and not gpu"

test-slow: .venv
	$(BIN)/python -m pytest -m slow

check: .venv
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright

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
