# make train, make test: on a fresh machine each does everything.
PYTHON ?= python3
BIN := .venv/bin
# What the tests ran with: JAX 0.11 and Flax 0.12.9 dropped Python 3.11.
LOCK := $(shell $(PYTHON) -c 'import sys; \
  print("requirements-3.11.lock" if sys.version_info < (3, 12) \
    else "requirements.lock")')

.PHONY: install train test test-slow lint types docs lock lock-docs lock-cuda \
  tpu-report gpu-report

# -- the environment, made once: exact versions, then the package itself. Python
# compiles what a program imports: to compile all here takes a minute.
.venv/installed: setup.cfg pyproject.toml $(LOCK)
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --no-compile -r $(LOCK)
	$(BIN)/python -m pip install --quiet --no-deps -e .
	touch $@

install: .venv/installed

train: install
	$(BIN)/python -m alexnet_jax.main --config=configs/default.py

# Two processes, for compiling, where most of the time goes, has one thread.
test: install
	$(BIN)/python -m pytest -n 2 --dist=loadfile

test-slow: install
	$(BIN)/python -m pytest -m slow

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: install
	$(BIN)/mypy

# -- the site, site/index.html: docs/ and what docs/site/hook.py adds. It reads
# docstrings without JAX. A dead link is an error.
DOCS := .venv-docs

$(DOCS)/installed: requirements-docs.lock
	test -x $(DOCS)/bin/python || $(PYTHON) -m venv $(DOCS)
	$(DOCS)/bin/python -m pip install --quiet --no-compile -r $<
	touch $@

docs: $(DOCS)/installed
	NO_MKDOCS_2_WARNING=1 $(DOCS)/bin/python -m mkdocs build --strict

# -- what a TPU would do, with none here: libtpu in an environment of its own
.venv-tpu/installed: setup.cfg $(LOCK)
	test -x .venv-tpu/bin/python || $(PYTHON) -m venv .venv-tpu
	.venv-tpu/bin/python -m pip install --quiet -r $(LOCK)
	.venv-tpu/bin/python -m pip install --quiet -e '.[tpu]'
	touch $@

tpu-report: .venv-tpu/installed
	JAX_PLATFORMS=cpu .venv-tpu/bin/python -m alexnet_jax.benchmark tpu \
	  --config=configs/imagenet2012.py --config.dtype=bfloat16 \
	  --json=experiments/results/tpu.json \
	  --leads=experiments/results/tpu_leads.csv --report=docs/scaling.md

# -- what an H100 would run, with none here: XLA for GPUs, without their libraries
GPU := jax-cuda13-plugin jax-cuda13-pjrt
CUDA := nvidia-cuda-nvcc nvidia-nvvm nvidia-cuda-crt nvidia-cuda-runtime

.venv-gpu/installed: setup.cfg $(LOCK)
	test -x .venv-gpu/bin/python || $(PYTHON) -m venv .venv-gpu
	.venv-gpu/bin/python -m pip install --quiet -r $(LOCK)
	.venv-gpu/bin/python -m pip install --quiet --no-deps -e . $(CUDA) \
	  $(GPU:=$(shell sed -n 's/^jax==/==/p' $(LOCK)))
	touch $@

gpu-report: .venv-gpu/installed
	JAX_PLATFORMS=cpu PATH="$$PATH:$$(echo $$PWD/.venv-gpu/lib/*/site-packages/nvidia/cu13/bin)" \
	  .venv-gpu/bin/python -m alexnet_jax.benchmark gpu --compile_only \
	  --config=configs/imagenet2012.py --config.dtype=bfloat16 \
	  --config.matmul_precision=default --batch=1024 --mesh=1,1 --mesh=8,1 \
	  --json=experiments/results/gpu.json
	.venv-gpu/bin/python -m experiments.speed

# -- the lock file of this Python, from the ranges of setup.cfg
lock:
	rm -rf .venv-lock && $(PYTHON) -m venv .venv-lock
	.venv-lock/bin/python -m pip install --quiet -e '.[dev]'
	echo '# Made by `make lock`: what the tests ran with.' > $(LOCK)
	.venv-lock/bin/python -m pip freeze --exclude-editable >> $(LOCK)
	rm -rf .venv-lock

lock-docs:
	rm -rf .venv-lock && $(PYTHON) -m venv .venv-lock
	$(PYTHON) -c 'import configparser as c; f = c.ConfigParser(); \
	  f.read("setup.cfg"); print(f["options.extras_require"]["docs"])' \
	  | .venv-lock/bin/python -m pip install --quiet -r /dev/stdin
	echo '# Made by `make lock-docs`: what the site was built with.' \
	  > requirements-docs.lock
	.venv-lock/bin/python -m pip freeze >> requirements-docs.lock
	rm -rf .venv-lock

# What CUDA needs beside requirements.lock.
lock-cuda:
	rm -rf .venv-lock && $(PYTHON) -m venv .venv-lock
	.venv-lock/bin/python -m pip install --quiet uv
	echo '# Made by `make lock-cuda`: what the image for NVIDIA GPUs has.' \
	  > requirements-cuda.lock
	echo 'jax[cuda13]' | .venv-lock/bin/uv pip compile - --quiet --no-annotate \
	  --no-header -c requirements.lock --python-version=3.13 \
	  --python-platform=x86_64-manylinux_2_28 \
	  | grep -E '^(jax-cuda|nvidia)' >> requirements-cuda.lock
	rm -rf .venv-lock
