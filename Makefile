# Everything runs inside .venv, which the first target sets up and later ones leave alone.
PYTHON ?= python3
NB ?=
ARGS ?=
BIN := .venv/bin
TYPED := $(wildcard unioncam_core.py fusioncam.py $(foreach part,engine methods metrics store experiment,unioncam_lab/$(part)*))

# An idle thread of PyTorch sleeps. By default it waits actively, which takes the core from whoever has work for it.
export OMP_WAIT_POLICY = passive

.PHONY: help demo quick test format lock bench shapes lab notebooks clean
.DEFAULT_GOAL := help

help: ## list what make can do
	@sed -n 's/^\([a-z-]*\):.*## /make \1\t/p' $(MAKEFILE_LIST) | expand -t 20

demo: .venv/ready ## run the notebooks on the built-in network and photos (one: make demo NB=02)
	@$(BIN)/python -m unioncam_lab notebooks $(NB)

quick: .venv/ready ## run the checks that take seconds, after each change
	$(call run_checks,lint format types fast)

test: .venv/ready ## run every check: lint, format, types, unit tests, stored notebooks
	$(call run_checks,lint format types unit stored)

# Each check runs, whichever fails.
define run_checks
	@failed=; \
	for part in $(1); do \
		echo "== $$part"; \
		$(MAKE) --no-print-directory check-$$part || failed="$$failed $$part"; \
	done; \
	if test -n "$$failed"; then echo "Failed:$$failed."; exit 1; fi; \
	echo "All checks passed."
endef

.PHONY: check-lint check-format check-types check-fast check-unit check-stored
check-lint: .venv/ready ## look for mistakes in the code
	@$(BIN)/ruff check .

check-format: .venv/ready ## say what `make format` would change
	@$(BIN)/ruff format --check .

check-types: .venv/ready ## check the types of the core and of the lab's main modules
	@$(BIN)/ty check --python .venv $(TYPED)

check-fast: .venv/ready ## run the unit tests that take neither long, nor a notebook, nor a browser
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 -m "not slow and not notebook and not browser" $(ARGS)

check-unit: .venv/ready ## run all unit tests
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal $(ARGS)

# Not 16, whose outputs are seconds and never the same: the unit tests run it, as they do each of them, at a small size.
check-stored: .venv/ready ## run the notebooks and compare with their stored outputs
	@OMP_NUM_THREADS=1 TQDM_DISABLE=1 UNIONCAM_FIGURES=$(CURDIR)/build/nbval $(BIN)/python -m pytest -n 2 --dist loadfile --nbval-lax --nbval-current-env --nbval-cell-timeout=600 --ignore=notebooks/16_cost.ipynb notebooks

format: .venv/ready ## format the code, and fix what can be fixed automatically
	@$(BIN)/ruff check --quiet --fix .
	@$(BIN)/ruff format .

# The versions that the files hold are kept where pyproject.toml allows them. --universal: for every system and Python.
PIN = $(BIN)/uv pip compile pyproject.toml --quiet --extra test --universal --python-version 3.11
lock: .venv/ready ## write requirements.lock and environment.yml for pyproject.toml (newest versions: make lock ARGS=--upgrade)
	$(PIN) --generate-hashes --no-emit-index-url --custom-compile-command "make lock" --output-file requirements.lock $(ARGS)
	@sed '/- -e/q' environment.yml > .venv/environment.yml
	@$(PIN) --no-deps --no-header --no-annotate --no-emit-index-url --constraint requirements.lock | sed 's/^/      - /' >> .venv/environment.yml
	@cp .venv/environment.yml environment.yml

bench: .venv/ready ## measure what an explanation costs, beside two libraries (more: make bench ARGS=--help)
	@$(BIN)/python -m unioncam_lab bench $(ARGS)

lab: .venv/ready ## open JupyterLab on the notebooks
	$(BIN)/jupyter lab --notebook-dir=. notebooks/00_start_here.ipynb

shapes: .venv/ready ## train the classifier of drawn shapes again, in minutes
	$(BIN)/python -m unioncam_lab train $(ARGS)

notebooks: .venv/ready ## run the committed notebooks again and store their outputs
	TQDM_DISABLE=1 $(BIN)/jupyter nbconvert --to notebook --execute --inplace --ExecutePreprocessor.record_timing=False notebooks/$(NB)*.ipynb

clean: ## remove what the other targets made
	rm -rf .venv build *.egg-info .pytest_cache .ruff_cache .hypothesis

# uv, whose own version and hashes are in the lock too, is several times faster than pip. pip alone knows the settings of pip
# for a proxy or a mirror, so it takes over where uv fails. setuptools, which builds the editable package, is in the lock.
INSTALL = install --quiet --require-hashes --requirement
.venv/ready: requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(v < (3, 11) and f"Python 3.11 or newer is needed, $(PYTHON) is {v[0]}.{v[1]}: name another, as in make demo PYTHON=python3.12")'
	@echo "Setting up .venv: about 1 minute and 7 GB on Linux, once."
	@$(PYTHON) -m venv .venv
	@sed -n '/^uv==/,/[^\\]$$/p' requirements.lock > .venv/uv.txt
	@{ $(BIN)/python -m pip $(INSTALL) .venv/uv.txt && $(BIN)/uv pip $(INSTALL) requirements.lock --python $(BIN)/python; } || { \
		echo "uv could not install the packages, so pip does: about 5 minutes."; \
		$(BIN)/python -m pip $(INSTALL) requirements.lock; \
	}
	@$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --editable .
	@touch $@
