# Everything runs inside .venv, which the first target sets up and later ones leave alone.
PYTHON ?= python3
NB ?=
ARGS ?=
BIN := .venv/bin

.PHONY: help demo test bench shapes lab notebooks clean
.DEFAULT_GOAL := help

help: ## list what make can do
	@sed -n 's/^\([a-z]*\):.*## /make \1\t/p' $(MAKEFILE_LIST) | expand -t 18

demo: .venv/ready ## run the notebooks on the built-in network and photos (one: make demo NB=02)
	@$(BIN)/python -m unioncam_lab notebooks $(NB)

test: .venv/ready ## run every check: lint, format, unit tests, stored notebooks
	@failed=; \
	for part in lint format unit stored; do \
		echo "== $$part"; \
		$(MAKE) --no-print-directory check-$$part || failed="$$failed $$part"; \
	done; \
	if test -n "$$failed"; then echo "Failed:$$failed."; exit 1; fi; \
	echo "All checks passed."

# The parts of `make test`, which runs them all, whichever fails.
.PHONY: check-lint check-format check-unit check-stored
check-lint: .venv/ready
	@$(BIN)/ruff check .

check-format: .venv/ready
	@$(BIN)/ruff format --check .

check-unit: .venv/ready
	@$(BIN)/python -m pytest

# Not 16, whose outputs are seconds and never the same: the unit tests run it, as they do each of them, at a small size.
check-stored: .venv/ready
	@TQDM_DISABLE=1 UNIONCAM_FIGURES=$(CURDIR)/build/nbval $(BIN)/python -m pytest --nbval-lax --nbval-current-env --nbval-cell-timeout=600 --ignore=notebooks/16_cost.ipynb notebooks

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

.venv/ready: pyproject.toml
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(v < (3, 11) and f"Python 3.11 or newer is needed, $(PYTHON) is {v[0]}.{v[1]}: name another, as in make demo PYTHON=python3.12")'
	@echo "Setting up .venv: about 2 minutes and 7 GB on Linux, once."
	@$(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[test]'
	@touch $@
