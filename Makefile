# Everything runs inside .venv, which the first target sets up and later ones leave alone.
PYTHON ?= python3
NB ?=
ARGS ?=
KEY ?= unioncam
OUT ?= runs/paper
PORT ?= 8866
BIN := .venv/bin
TYPED := $(wildcard unioncam_core.py fusioncam.py $(foreach part,engine methods metrics store experiment,unioncam_lab/$(part)*))

# An idle thread of PyTorch sleeps. By default it waits actively, which takes the core from whoever has work for it.
export OMP_WAIT_POLICY = passive

.PHONY: help demo quick test format lock paper bench shapes lab app notebooks book assignments badges clean
.DEFAULT_GOAL := help

help: ## list what make can do
	@sed -n 's/^\([a-z-]*\):.*## /make \1\t/p' $(MAKEFILE_LIST) | expand -t 20

demo: .venv/ready ## run the notebooks on the built-in network and photos (one: make demo NB=02; without CUDA: TORCH=cpu)
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
PIN = $(BIN)/uv pip compile pyproject.toml --quiet --universal --python-version 3.11
lock: .venv/ready ## write the locked versions for pyproject.toml: requirements.lock, environment.yml, binder/ (newest: ARGS=--upgrade)
	$(PIN) --extra test --generate-hashes --no-emit-index-url --custom-compile-command "make lock" --output-file requirements.lock $(ARGS)
	@$(call list,environment.yml,test)
	@$(call list,binder/environment.yml,binder,s/^torch\(vision\)*=.*/&+cpu/;)

# $(call list,FILE,EXTRA,SED) writes the versions of an extra below the line of FILE that begins with an option of pip.
define list
	sed '/- -/q' $(1) > .venv/environment.yml; \
	$(PIN) --extra $(2) --no-deps --no-header --no-annotate --no-emit-index-url --constraint requirements.lock \
		| sed '$(3)s/^/      - /' >> .venv/environment.yml && cp .venv/environment.yml $(1)
endef

# IMAGENET is ILSVRC2012's validation set, VOC is VOC2007's test set: a tar as downloaded, or a folder.
paper: .venv/ready ## run the paper's experiment: make paper IMAGENET=PATH VOC=PATH (more: ARGS=--help)
	@$(BIN)/python -m unioncam_lab paper --imagenet "$(IMAGENET)" --voc "$(VOC)" --out "$(OUT)" $(ARGS)

bench: .venv/ready ## measure what an explanation costs, beside two libraries (more: make bench ARGS=--help)
	@$(BIN)/python -m unioncam_lab bench $(ARGS)

lab: .venv/ready ## open JupyterLab on the notebooks
	$(BIN)/jupyter lab --notebook-dir=. notebooks/00_start_here.ipynb

# One kernel for each visitor. explorer/server holds the settings and the template of the page.
APP = unioncam_lab/explorer/server
app: .venv/ready ## serve the explorer as a web page on this computer (another port: make app PORT=8870)
	JUPYTER_PATH=$(CURDIR)/$(APP) $(BIN)/voila notebooks/15_explorer.ipynb --Voila.config_file_paths=$(CURDIR)/$(APP) --port=$(PORT) $(ARGS)

shapes: .venv/ready ## train the classifier of drawn shapes again, in minutes
	$(BIN)/python -m unioncam_lab train $(ARGS)

notebooks: .venv/ready ## run the committed notebooks again and store their outputs
	TQDM_DISABLE=1 $(BIN)/jupyter nbconvert --to notebook --execute --inplace --ExecutePreprocessor.record_timing=False notebooks/$(NB)*.ipynb

book: .venv/ready ## make a website of the stored notebooks, to read and to search without a network
	@$(BIN)/python -m sphinx --quiet --fail-on-warning --keep-going --conf-dir docs --doctree-dir build/doctrees . build/book
	@echo "Read build/book/index.html."

assignments: .venv/ready ## make the students' release of the problem sets (data of a course of yours: make assignments KEY=word)
	@$(BIN)/python assignments/build.py --key "$(KEY)"

badges: .venv/ready ## have the notebooks opened on Binder and Colab: make badges REPOSITORY=owner/name
	@$(BIN)/python -m unioncam_lab badges "$(REPOSITORY)"

clean: ## remove what the other targets made
	rm -rf .venv build *.egg-info .pytest_cache .ruff_cache .hypothesis

# On Linux PyPI's PyTorch, which is in the lock, brings CUDA. TORCH=cuda takes it, and TORCH=cpu takes the same version from
# PyTorch's own index. Without TORCH, .venv keeps what it has, and a new one gets cpu if no NVIDIA driver is found and the index
# answers within seconds. Where TORCH differs from what .venv has, .venv is made anew.
TORCH_CPU_INDEX ?= https://download.pytorch.org/whl/cpu
ifeq ($(shell uname),Linux)
BUILD := $(shell cat .venv/torch 2>/dev/null)
TORCH ?= $(BUILD)
ifneq ($(TORCH),$(BUILD))
.PHONY: .venv/ready
ANEW := --clear
endif
else  # PyPI's PyTorch for other systems is without CUDA
override TORCH := pypi
endif

LIGHT = about 1 minute, 0.8 GB to download, 2.3 GB on disk
WHOLE = about 2 minutes, 3.6 GB to download, 7 GB on disk
# `timeout` ends the look-up of the index's name too.
define choose_torch
	build=$(TORCH); why="$(if $(ANEW),TORCH is $(TORCH),it was so before)"; \
	if test -n "$$build"; then :; \
	elif test -e /proc/driver/nvidia/version || command -v nvidia-smi > /dev/null; then \
		build=cuda; why="an NVIDIA driver was found"; \
	elif timeout 4 $(PYTHON) -c 'from urllib.request import urlopen; urlopen("$(TORCH_CPU_INDEX)/torch/")' 2> /dev/null; then \
		build=cpu; why="no NVIDIA driver was found"; \
	else \
		build=cuda; why="$(TORCH_CPU_INDEX) does not answer"; \
	fi; \
	case $$build in \
		cpu) echo "Setting up .venv once, without CUDA, because $$why: $(LIGHT). TORCH=cuda: $(WHOLE).";; \
		cuda) echo "Setting up .venv once, with CUDA, because $$why: $(WHOLE). TORCH=cpu: $(LIGHT).";; \
		pypi) echo "Setting up .venv once: about 1 minute and 2 GB.";; \
	esac; \
	echo $$build > .venv/torch
endef

# $(call install,OPTIONS) installs with uv, from PATH or else the one of the lock, which is several times faster than pip. pip
# alone knows the settings of pip for a proxy or a mirror, so it takes over where uv fails. --no-deps: the lock has everything.
# Bytecode is compiled once, so that no first import waits for it.
define install
	{ PATH="$$PATH:$(BIN)" uv pip install --quiet --compile-bytecode --python $(BIN)/python --no-deps $(1) || { \
		echo "uv could not install the packages, so pip does: about 5 minutes."; \
		$(BIN)/python -m pip install --quiet --no-deps $(1); \
	}; }
endef
CPU_BUILDS = $(shell sed -nE 's/^(torch|torchvision)==([^ ]+).*/\1==\2+cpu/p' requirements.lock)
NOT_FOR_CPU = (torch|torchvision|triton|(nvidia|cuda)-[a-z0-9-]+)==
.venv/ready: requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(v < (3, 11) and f"Python 3.11 or newer is needed, $(PYTHON) is {v[0]}.{v[1]}: name another, as in make demo PYTHON=python3.12")'
	@case "$(TORCH)" in cpu|cuda|pypi|'') ;; *) echo "TORCH is $(TORCH), but can only be cpu or cuda."; exit 1;; esac
	@$(PYTHON) -m venv $(ANEW) .venv
	@$(choose_torch)
	@sed -n '/^uv==/,/[^\\]$$/p' requirements.lock > .venv/uv.txt
	@uv --version > /dev/null 2>&1 || $(BIN)/python -m pip install --quiet --require-hashes --requirement .venv/uv.txt || true
	@! grep -q cpu .venv/torch || $(call install,--index-url $(TORCH_CPU_INDEX) $(CPU_BUILDS)) || { \
		echo "PyTorch without CUDA could not be installed: $(if $(TORCH),TORCH=cuda installs it with CUDA.,it comes with CUDA instead.)"; \
		test -z "$(TORCH)" && echo cuda > .venv/torch; \
	}
	@if grep -q cpu .venv/torch; then sed -E '/^$(NOT_FOR_CPU)/,/[^\\]$$/d' requirements.lock; else cat requirements.lock; fi > .venv/packages.txt
	@$(call install,--require-hashes --requirement .venv/packages.txt)
	@$(call install,--no-build-isolation --editable .)
	@touch $@
