# Every target makes .venv from nothing if it is missing. PYTHON chooses the interpreter (3.11 to 3.13).
PYTHON ?= python3
BIN := .venv/bin

# The processes that tests start would each compile everything anew, a third of the tests' time.
unexport PYTHONDONTWRITEBYTECODE

PIP := $(BIN)/python -m pip
# Exactly the locked files, each a wheel of a known hash: nothing is resolved and no setup.py runs.
LOCKED := $(PIP) install --quiet --no-deps --require-hashes --only-binary :all: --requirement
# Which build of torch to ask for first, `cpu` or `cuda`.
TORCH ?= $(if $(shell command -v nvidia-smi),cuda,cpu)
# Tests run in this many processes of one thread each.
WORKERS ?= 2
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses $(WORKERS) --dist worksteal

.PHONY: help .venv lock docs notebooks screenshots demo test test-slow test-download test-gpu check audit fix \
	dictionary bench bench-kernels bench-screening roofline compile-table gpu-check bench-serve bench-steering bench-training bench-caching check-interop \
	check-steering-exports study-detox clean

help: ## this list
	@awk -F ':.* ## ' '/^[a-z.-]+:.* ## / {printf "make %-15s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))

.venv: .venv/installed ## the environment, from the lock files; PYTHON=python3.12 TORCH=cpu|cuda

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

lock: .venv ## lock files and constraints.txt anew; UPGRADE=--upgrade for newer versions
	$(BIN)/python requirements/lock.py $(UPGRADE)

docs: .venv ## docs/options.md from the --help of every verb, then the site, into site/
	$(BIN)/python docs/write_options.py
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

notebooks: .venv ## run the notebooks of docs/notebooks and keep what they print; minutes
	$(BIN)/python docs/run_notebooks.py

# RUN is the folder of a run; by default the demo's, whose scores of rows are shown, too.
screenshots: .venv ## pictures of the browser's pages, into docs/images/; RUN=FOLDER; needs Chromium
	$(BIN)/python docs/take_screenshots.py $(RUN)

# CACHE and RUN are a cache and a run that are there already; without them all is made, in days.
dictionary: .venv ## make smollm2-135m-default, which ships, anew; CACHE=FOLDER RUN=FOLDER
	$(BIN)/python -m benchmarks.make_dictionary $(if $(CACHE),--cache $(CACHE)) $(if $(RUN),--run $(RUN))
	$(BIN)/python -m benchmarks.describe_dictionary
	$(BIN)/python benchmarks/fill_docs.py docs/dictionary.md

demo: .venv ## a real language model: SAEs, features, steering, selection, a report; minutes
	$(BIN)/sparsteer demo

test: .venv ## everything quick that needs no download and no GPU, in WORKERS=2 processes
	$(PYTEST) -m "not slow and not download and not gpu"

# A browser beside other tests is too slow for what waits for it, so its tests come alone.
BROWSER := tests/app/browser/chromium
test-slow: .venv ## what takes longer and needs no download either
	$(PYTEST) -m "slow and not download and not gpu" --ignore $(BROWSER)
	$(BIN)/python -m pytest -m "slow and not download and not gpu" $(BROWSER)

test-download: .venv ## what needs the default language model, from a package registry; minutes
	$(BIN)/python -m pytest -m download

test-gpu: .venv ## what needs an NVIDIA GPU, as it runs there
	$(PYTEST) -m gpu

check: .venv audit ## format, lint, strict types, known vulnerabilities; changes nothing
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright

audit: .venv ## known vulnerabilities of the locked packages
	$(BIN)/python requirements/audit.py

fix: .venv ## format and apply the safe fixes of ruff
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: .venv ## benchmarks of a training step, into benchmarks/results/
	$(BIN)/python benchmarks/bench_training_step.py
	$(BIN)/python benchmarks/bench_sparse_products.py

bench-kernels: .venv ## operators and steps against floors, into docs/kernels.md; PRECISION=tf32
	$(BIN)/python benchmarks/bench_kernels.py $(if $(PRECISION),--precision $(PRECISION))
	$(BIN)/python benchmarks/fill_docs.py docs/kernels.md

# OpenMP's threads sleep soon while they wait, as the command lets its own.
bench-screening: .venv ## top-k encoding screened in bfloat16 beside its products, into docs/kernels.md
	GOMP_SPINCOUNT=5000 $(BIN)/python benchmarks/bench_screening.py
	$(BIN)/python benchmarks/fill_docs.py docs/kernels.md

roofline: .venv ## a step's times on a GPU, predicted from bytes, into docs/kernels.md
	$(BIN)/python benchmarks/roofline.py --write
	$(BIN)/python benchmarks/fill_docs.py docs/kernels.md

# Minutes for each Triton and architecture; PYTHONS are interpreters of environments with other Tritons.
compile-table: .venv ## every kernel compiled for six GPUs, into docs/kernels.md; PYTHONS="A B"
	$(BIN)/python benchmarks/compile_table.py $(if $(PYTHONS),--python $(PYTHONS))
	$(BIN)/python benchmarks/fill_docs.py docs/kernels.md

# An interpreter that has all that the check needs, with a GPU, is taken as it is: no .venv is made.
# `make` by its name, as a line with its variable would run the check under --dry-run, too.
SEES_GPU := import jaxtyping, safetensors, torch, triton; raise SystemExit(not torch.cuda.is_available())
gpu-check: ## all that a GPU can show, under 8 minutes; OUT=FOLDER WHEELS=FOLDER PARTS=steps
	python=$(PYTHON); $$python -c '$(SEES_GPU)' 2> /dev/null \
		|| { make --no-print-directory .venv && python=$(BIN)/python; } || exit; \
	$$python benchmarks/gpu_check.py $(if $(OUT),--out $(OUT)) $(if $(WHEELS),--wheels $(WHEELS)) \
		$(if $(PARTS),--parts $(PARTS)); status=$$?; \
	$(if $(OUT),,$$python benchmarks/fill_docs.py docs/kernels.md &&) exit $$status

# Without RUN a run of 16,384 latents is made.
bench-serve: .venv ## the server against its goals, and under load; RUN=FOLDER; minutes
	$(BIN)/python benchmarks/bench_serve.py $(if $(RUN),--run $(RUN))

# Without RUN the autoencoder is a random one of 16,384 latents.
bench-steering: .venv ## what steering adds to a token, into docs/steering.md; RUN=FOLDER; minutes
	$(BIN)/python benchmarks/bench_steering.py $(if $(RUN),--run $(RUN))
	$(BIN)/python benchmarks/fill_docs.py docs/steering.md

# Stopped, it goes on with the next case; CASES="real-4608-32 made-up-12288-32" takes some.
bench-training: .venv ## a step beside PyTorch and three toolkits, in .peers/; minutes; CASES=...
	$(BIN)/python benchmarks/bench_training.py $(if $(CASES),--cases $(CASES))
	$(BIN)/python benchmarks/fill_docs.py docs/comparison.md README.md

bench-caching: .venv ## rows a second of the shuffled reader, and of caching against the model alone
	$(BIN)/python benchmarks/bench_activation_cache.py --write-tokens 8000

# Stopped, it goes on with the next batch of continuations; hours on a CPU.
study-detox: .venv ## ways to steer at equal cost, into docs/detox.md; RUN=FOLDER OUT=FOLDER
	$(BIN)/sparsteer detox eval --config recipes/detox-smollm2.yaml $(or $(RUN),smollm2-135m-default) \
		--out $(or $(OUT),studies/detox)
	$(BIN)/python benchmarks/write_detox_results.py $(or $(OUT),studies/detox)
	$(BIN)/python benchmarks/fill_docs.py docs/detox.md

# OPENAI is a checkout of github.com/openai/sparse_autoencoder, which is in no registry.
check-interop: .venv ## other libraries' autoencoders here and ours there, in .peers/; OPENAI=CHECKOUT
	$(BIN)/python benchmarks/check_interop.py $(if $(OPENAI),--openai $(OPENAI))
	$(BIN)/python benchmarks/fill_docs.py docs/interop.md

# EASYSTEER=FOLDER is a copy of github.com/ZJU-REAL/EasySteer, whose reader of files is then run, too.
check-steering-exports: .venv ## exported steering in the tools that read it, in environments in .peers/
	$(BIN)/python -m benchmarks.check_steering_exports $(if $(EASYSTEER),--easysteer $(EASYSTEER))
	$(BIN)/python benchmarks/fill_docs.py docs/steering.md

clean: ## remove .venv, .peers and site
	rm -rf .venv .peers site
