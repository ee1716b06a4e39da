# `make` alone prints what there is.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
DEMO := runs/demo
WORKERS ?= 2

# glibc takes large pages for large arrays: training on Linux CPUs spends less time on page faults.
export GLIBC_TUNABLES ?= glibc.malloc.hugetlb=1

.DEFAULT_GOAL := help
.PHONY: help install demo search-demo test test-slow lint format bench lock parity docs clean

help: ## Print this list
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 12

# Removed before and made after, so that an interrupted install is done again.
$(INSTALLED): requirements.lock pyproject.toml
	@rm -f $@
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; name one with make PYTHON=...")'
	@test -x $(BIN)/python || { echo "Making $(VENV) ..."; $(PYTHON) -m venv $(VENV); }
	@echo "Installing what requirements.lock names into $(VENV) (a minute or two) ..."
	@$(BIN)/python -m pip install --quiet --requirement requirements.lock
	@$(BIN)/python -m pip install --quiet --no-deps --editable .
	@touch $@

install: $(INSTALLED) ## Make .venv with everything in it

demo: $(INSTALLED) ## Draw the synthetic set, train on it, evaluate, write pages of results
	$(BIN)/python train.py --config=configs/grnet_aligned.py --config.model.layers=0 --workdir=$(DEMO)
	$(BIN)/python -m grnet_jax.visualization --workdir=$(DEMO)
	$(BIN)/python eval.py --workdir=$(DEMO)

search-demo: $(INSTALLED) ## Draw the synthetic set and search it by photo in a browser; no training
	$(BIN)/python -m input_pipeline.prepare --dataset=synthetic --source=small --dir=data
	$(BIN)/python -m grnet_jax.search index $(SEARCH_DEMO) --from=data/synthetic/small --split=test
	@test -e $(SEARCH_DEMO)/calibration.json || $(BIN)/python -m grnet_jax.search calibrate $(SEARCH_DEMO)
	@echo "Open http://localhost:8000/ (Ctrl+C ends it)"
	$(BIN)/python -m grnet_jax.search serve $(SEARCH_DEMO)
SEARCH_DEMO := runs/search-demo

test: $(INSTALLED) ## The fast tests (minutes)
	$(BIN)/python -m pytest -m "not slow" -n $(WORKERS) --dist loadfile --durations=10

test-slow: $(INSTALLED) ## Kill, multi-process and parity tests, and the paper's sizes
	$(BIN)/python -m pytest -m slow -n $(WORKERS) --dist loadfile --durations=10

lint: $(INSTALLED) ## Style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(INSTALLED) ## Rewrite to the style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(INSTALLED) ## GRNet, the global baseline and the color histogram on the synthetic set (an hour)
	$(BIN)/python -m benchmarks.grnet_vs_baseline

parity: $(INSTALLED) ## Install PyTorch, torchvision and timm, which slow tests and benchmarks compare with
	@$(BIN)/python -m pip install --quiet $(TORCH) huggingface_hub
	@$(BIN)/python -m pip install --quiet --no-deps $(TORCH_MODELS)
TORCH ?= torch==2.13.0
# Without their dependencies, which may bring another build of PyTorch.
TORCH_MODELS ?= torchvision==0.28.0 timm==1.0.31 pytorch-metric-learning==2.9.0

lock: $(INSTALLED) ## Resolve pyproject.toml anew into requirements.lock
	$(BIN)/uv pip compile pyproject.toml --extra dev --python-version 3.11 --universal --upgrade -o requirements.lock

docs: $(INSTALLED) ## The site of docs/, in site/
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

clean: ## Remove .venv and caches; data and runs stay
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache build site *.egg-info
