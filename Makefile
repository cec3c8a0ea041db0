# Targets are documented where they are defined: a line of `target: ## text`.
.DEFAULT_GOAL := help
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:

PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
BUILD  ?= build
JOBS   ?= 2
COUNT  ?= 10000

# The rules that `modelopt makefile` prints, used on our own samples.
MODELOPT       := $(BIN)/modelopt
MODELOPT_FLAGS := --budget 2
include modelopt/modelopt.mk

.PHONY: help
help: ## Show this list
	@awk -F ':.*## ' '/^[a-z][a-z0-9-]*:.*## / {printf "  %-14s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))

$(VENV)/.core: pyproject.toml hatch_build.py modelopt/calibration/bincount.c
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --editable .
	touch $@

$(VENV)/.dev: $(VENV)/.core
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[test,dev]'
	touch $@

.venv-lock/.ready:
	$(PYTHON) -m venv .venv-lock
	.venv-lock/bin/pip install --quiet --disable-pip-version-check uv
	touch $@

.PHONY: lock
lock: .venv-lock/.ready ## Pin all packages of the development environment anew, with their hashes
	.venv-lock/bin/uv pip compile --quiet --universal --upgrade --generate-hashes --all-extras --group build \
		--custom-compile-command 'make lock' --output-file requirements-dev.lock pyproject.toml

.PHONY: install-locked
install-locked: ## Install modelopt and its development tools into .venv, exactly as requirements-dev.lock says
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes --requirement requirements-dev.lock
	$(BIN)/pip install --quiet --disable-pip-version-check --no-build-isolation --no-deps --editable .
	touch $(VENV)/.core $(VENV)/.dev

.venv-sbom/.ready: pyproject.toml
	$(PYTHON) -m venv .venv-cyclonedx
	.venv-cyclonedx/bin/pip install --quiet --disable-pip-version-check cyclonedx-bom
	$(PYTHON) -m venv --without-pip .venv-sbom
	.venv-cyclonedx/bin/pip --python .venv-sbom/bin/python install --quiet --disable-pip-version-check .
	touch $@

.PHONY: sbom
sbom: .venv-sbom/.ready ## List what an installation of modelopt holds, as CycloneDX JSON
	mkdir -p $(BUILD)
	.venv-cyclonedx/bin/cyclonedx-py environment --pyproject pyproject.toml --output-reproducible \
		--output-file $(BUILD)/sbom.cdx.json .venv-sbom/bin/python

.PHONY: install
install: $(VENV)/.core ## Install modelopt into .venv

DEMO := sample_models/ppocr_cls
DEMO_PREPROCESS = $(file < $(DEMO)/preprocess.txt)

.PHONY: demo
demo: $(VENV)/.core ## Optimize a real model with its real data and show the report
	mkdir -p $(BUILD)
	$(MODELOPT) quantize $(DEMO)/model.onnx --calib $(DEMO)/calib --eval $(DEMO)/eval \
		--preprocess $(DEMO_PREPROCESS) --max-drop 1% -o $(BUILD)/ppocr_cls.optimized.onnx

.PHONY: samples
samples: $(BUILD)/digits_cnn.int8.onnx $(BUILD)/digits_vit.folded.onnx $(BUILD)/glyph_mobile.fused.onnx ## Build three sample models with modelopt.mk's rules; only what changed

$(BUILD)/digits_cnn.int8.onnx: MODELOPT_CALIB := sample_models/digits_cnn/calib.npz

$(BUILD)/%.onnx: sample_models/%/model.onnx | $(VENV)/.core
	@mkdir -p $(@D)
	cp $< $@

.PRECIOUS: $(BUILD)/%.onnx

.PHONY: lint
lint: $(VENV)/.dev ## Check format, rules and types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

.PHONY: test
test: lint ## Run everything that CI runs
	$(BIN)/python -m pytest -n 2 --dist worksteal --durations=10

TESTS    ?=
MACHINES ?= avx2,avx512,avx2-qemu,arm64-qemu,arm64-no-dot-qemu

.PHONY: test-machines
test-machines: $(VENV)/.dev ## Run the quantization tests (or TESTS=paths) as on machines without VNNI and on arm64
	$(BIN)/python -m tests.machines --jobs $(JOBS) --only $(MACHINES) $(TESTS)

.venv-openvino/.ready: pyproject.toml
	$(PYTHON) -m venv .venv-openvino
	.venv-openvino/bin/pip install --quiet --disable-pip-version-check --editable '.[test]'
	.venv-openvino/bin/pip uninstall --quiet --yes onnxruntime
	.venv-openvino/bin/pip install --quiet --disable-pip-version-check onnxruntime-openvino
	touch $@

.PHONY: test-openvino
test-openvino: .venv-openvino/.ready ## Test a second provider, in an environment of its own
	.venv-openvino/bin/python -m pytest -m openvino tests/runtime/test_openvino.py

.PHONY: format
format: $(VENV)/.dev ## Format the code
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix-only .

.PHONY: bench
bench: bench-models bench-fuse bench-int8 bench-tool ## Print every table of the README; takes an hour (MODELS=folder for other models)

MODELS ?= sample_models

.PHONY: bench-models
bench-models: $(VENV)/.core ## Quantize each model of MODELS with modelopt and with others, and print size, latency, accuracy
	$(BIN)/python tests/bench/quantizers.py $(MODELS)
	$(BIN)/python tests/bench/quantizers.py $(MODELS) --calib-only --only-ours

.PHONY: bench-fuse
bench-fuse: $(VENV)/.core ## Run the exact passes alone on each model of MODELS
	$(BIN)/python tests/bench/main_job.py $(MODELS) fuse

.PHONY: bench-int8
bench-int8: $(VENV)/.core ## Measure int8 on models of real size, calibration, and weights of few bits
	$(BIN)/python tests/bench/int8_shapes.py
	$(BIN)/python tests/bench/calibration.py
	$(BIN)/python tests/bench/weights.py

.PHONY: bench-packages
bench-packages: $(VENV)/.core ## Run every command, and other tools, on models out of packages of the index; takes hours
	$(BIN)/python tests/bench/package_models.py

.PHONY: bench-tool
bench-tool: $(VENV)/.core ## Measure the tool itself: time and memory beside onnxsim and OnnxSlim, and 10 GB of weights
	$(BIN)/python tests/bench/tool_speed.py
	$(BIN)/python tests/bench/verification.py
	$(BIN)/python tests/bench/big_fold.py

.PHONY: trust
trust: $(VENV)/.core ## Hold verdicts on speed against identical models, 5 % more work and a bare loop; an hour, on a quiet machine
	$(BIN)/python tests/bench/trust.py

.PHONY: conformance
conformance: $(VENV)/.dev ## Run the onnx package's own cases through every exact pass, and plant bugs
	$(BIN)/python -m tests.campaigns.conformance --jobs $(JOBS)
	$(BIN)/python -m tests.campaigns.planted

.PHONY: fuzz
fuzz: $(VENV)/.dev ## Run COUNT=10000 generated models through the default pipelines
	$(BIN)/python -m tests.campaigns.fuzz --count $(COUNT) --seed 0 --jobs $(JOBS) --save $(BUILD)/fuzz

.PHONY: pruned
pruned: $(VENV)/.dev ## Hold 500 generated models without some of their channels against the originals with zeros
	$(BIN)/python -m tests.campaigns.pruned --count 500 --seed 0
	$(BIN)/python -m tests.campaigns.pruned sample_models/*/model.onnx

.PHONY: mutants
mutants: $(VENV)/.dev ## Run every command on COUNT=10000 damaged models
	$(BIN)/python -m tests.campaigns.mutants --count $(COUNT) --seed 0 --jobs $(JOBS) --save $(BUILD)/mutants

.PHONY: bombs
bombs: $(VENV)/.dev ## Run every command on small models made to take much memory or time
	$(BIN)/python -m tests.campaigns.bombs

.PHONY: attacks
attacks: $(VENV)/.dev ## Run every command on models with paths that lead outside, and with names made to drive a terminal
	$(BIN)/python -m tests.campaigns.paths_attacks --jobs $(JOBS)
	$(BIN)/python -m tests.campaigns.injection --jobs $(JOBS)

SECONDS ?= 1800

.venv-atheris/.ready: pyproject.toml
	$(PYTHON) -m venv .venv-atheris
	.venv-atheris/bin/pip install --quiet --disable-pip-version-check --editable '.[test]' atheris
	touch $@

.PHONY: fuzz-parser
fuzz-parser: .venv-atheris/.ready ## Search the parsers of models, arrays and recipes by coverage for SECONDS=1800
	.venv-atheris/bin/python -m tests.campaigns.fuzz_parser --seconds $(SECONDS) --save $(BUILD)/fuzz-parser

.PHONY: faults
faults: $(VENV)/.dev ## Make each system call that writes fail, kill and interrupt at 1,000 moments, spoil inputs; hours
	$(BIN)/python -m tests.campaigns.faults --only copy
	$(BIN)/python -m tests.campaigns.faults --only inline external report --step 5
	$(BIN)/python -m tests.campaigns.faults --only inline external --step 0 --kills 400 --signals 100 --writers 50 --cuts 100

.PHONY: syscalls
syscalls: $(VENV)/.dev ## Run every command under strace: no network, no other program, no file but its own
	$(BIN)/python -m tests.campaigns.syscalls

.PHONY: leaks
leaks: $(VENV)/.dev ## Call bench 50 times and quantize 20 times in one process: memory, files and children do not grow
	$(BIN)/python -m tests.campaigns.leaks

.PHONY: commands
commands: $(VENV)/.dev ## Run every command on each model of MODELS=folders and table what it says, and what of that is false
	$(BIN)/python -m tests.campaigns.commands $(MODELS) --jobs $(JOBS) --out $(BUILD)/commands.md

.PHONY: clean
clean: ## Remove what the targets above made
	rm -rf $(BUILD) $(VENV) .venv-openvino .venv-atheris .venv-lock .venv-sbom .venv-cyclonedx
