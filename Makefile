# `make demo` and `make test` are all a newcomer needs: they make .venv, install, and run.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# A machine with an NVIDIA GPU takes the CUDA build of ONNX Runtime; the two builds exclude each other.
RUNTIME := $(shell command -v nvidia-smi >/dev/null 2>&1 && nvidia-smi -L 2>/dev/null | grep -q GPU && echo gpu || echo cpu)
DEMO_OUT ?= demo-run
# One more than cores: tests wait for children, clocks and a browser.
IN_PARALLEL = -n $$(($$(getconf _NPROCESSORS_ONLN) + 1)) --dist loadfile --no-loadscope-reorder

.PHONY: help demo test test-libraries test-all bench bench-file bench-sources lint sources reference outputs types docs test-versions test-lowest \
	release-check licences deprecations clean

help:
	@echo "make demo    train a small network and analyze it"
	@echo "make test    run the tests;  make test-libraries    on files and models of other libraries"
	@echo "make test-all    both, and hundreds of kills and thousands of spoiled files"
	@echo "make bench   measure speed and memory, and whether a long run keeps its pace"
	@echo "make bench-file  measure the trajectory file: its size and speed, long runs, files of 10 GB (a quarter of an hour)"
	@echo "make bench-sources  measure listing 1,000 checkpoints of every kind, and regime check"
	@echo "make docs    build the manual: build/docs/index.html"
	@echo "make test-versions   test the core on Python 3.11, 3.12, 3.13;  make test-lowest    with the oldest libraries"
	@echo "make release-check   build and check the distributions, workflows and recipe;  make licences    list licences"
	@echo "make lint    check style;  make types    check types"

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "regime needs Python 3.11 or newer: make PYTHON=python3.12 …")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[$(RUNTIME),huggingface,torch,demo,paper,dev]'
	touch $@

demo: $(VENV)/.installed
	$(BIN)/regime demo --out $(DEMO_OUT)

test: $(VENV)/.installed
	$(BIN)/python -m pytest $(IN_PARALLEL) -m "not slow and not libraries"

$(VENV)/.sources-installed: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[$(RUNTIME),torch,sources]'
	touch $@

# What a library of the extra `sources` saved is read; a missing library fails.
test-libraries: $(VENV)/.sources-installed
	REGIME_REQUIRE_LIBRARIES=1 $(BIN)/python -m pytest $(IN_PARALLEL) -m "libraries and not slow"

test-all: $(VENV)/.sources-installed
	REGIME_REQUIRE_LIBRARIES=1 $(BIN)/python -m pytest $(IN_PARALLEL)

$(VENV)/.bench-installed: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[$(RUNTIME),torch,bench]'
	touch $@

bench: $(VENV)/.bench-installed
	$(BIN)/python tests/benchmarks/convert_speed.py
	$(BIN)/python tests/benchmarks/starting.py
	$(BIN)/python tests/benchmarks/memory.py
	$(BIN)/python tests/benchmarks/flatness.py
	$(BIN)/python tests/benchmarks/recording_overhead.py
	$(BIN)/python tests/benchmarks/reporting.py

bench-file: $(VENV)/.installed
	$(BIN)/python tests/benchmarks/mask_layout.py
	$(BIN)/python tests/benchmarks/trajectory.py

bench-sources: $(VENV)/.sources-installed
	$(BIN)/python tests/benchmarks/listing.py
	$(BIN)/python tests/benchmarks/checking.py

lint: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# The table of sources in the manual, with the versions that are tested.
sources: $(VENV)/.installed
	$(BIN)/python tests/support/sources_page.py

# The outputs that README and manual show.
outputs: $(VENV)/.installed
	$(BIN)/python tests/support/shown_outputs.py

# Every command and option, from the commands themselves.
reference: $(VENV)/.installed
	$(BIN)/python tests/support/reference.py

$(VENV)/.docs-installed: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[$(RUNTIME),docs]'
	touch $@

# Results of the notebooks are kept in build/, and computed again when the package or a notebook changes.
docs: $(VENV)/.docs-installed
	$(BIN)/python -m sphinx -W --keep-going --quiet -b html -d build/docs-cache/pages docs build/docs
	touch build/docs/.built

# Of the import paths of 0.1, in the manual.
deprecations: $(VENV)/.installed
	$(BIN)/python tests/support/deprecations_page.py

# Those below make environments of their own (noxfile.py).
test-versions: $(VENV)/.installed
	$(BIN)/nox --session core

test-lowest: $(VENV)/.installed
	$(BIN)/nox --session lowest

release-check: $(VENV)/.installed
	$(BIN)/nox --session release workflows citation recipe

licences: $(VENV)/.installed
	$(BIN)/nox --session licences

types: $(VENV)/.installed
	PATH="$(abspath $(BIN)):$$PATH" tests/check_wheel.sh

clean:
	rm -rf $(VENV) .nox build dist *.egg-info $(DEMO_OUT)
