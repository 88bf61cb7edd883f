# setup · demo · test · test-slow · docs · lint · check · licences · sbom · audit. `.ci/run` uses the words of setup and test.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
# One thread for each process: more of them only wait for each other on small models.
TEST_ENV = OMP_NUM_THREADS=1 GOMP_SPINCOUNT=1000 HF_HUB_OFFLINE=1

.PHONY: help setup demo test test-slow docs lint types check bench format mutants fuzz licences sbom audit clean

help:
	@echo "make setup   a virtual environment in $(VENV) with everything for development"
	@echo "make demo    install and make dog.wav from a sentence"
	@echo "make test    run the tests"
	@echo "make docs    the documentation as a site, in site/"
	@echo "make check   formatting, lint, types, tests with coverage"
	@echo "make test-slow  the long forms of the tests, with their figures (docs/reliability.md)"
	@echo "make licences   docs/licences.md: the licence of every package that is needed"
	@echo "make sbom    sbom.json: a bill of materials of $(VENV) (CycloneDX)"
	@echo "make audit   known vulnerabilities of what stands in $(VENV); asks a server"
	@echo "make lint    formatting and lint alone"
	@echo "make bench   the promises of speed, as ratios of one run"
	@echo "make mutants broken rules, and whether the tests notice (half an hour)"
	@echo "make fuzz    coverage-guided fuzzing of what reads files, MINUTES=30 (Linux, atheris)"

# torch goes first and alone: the other packages then take the build that is there. Without a GPU, the much smaller
# CPU build can be had by installing it from PyTorch's own index beforehand.
$(VENV)/.torch:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install torch==2.13.0
	@touch $@

$(VENV)/.demo: $(VENV)/.torch pyproject.toml constraints.txt
	$(BIN)/python -m pip install -c constraints.txt -e .
	@touch $@

$(VENV)/.setup: $(VENV)/.torch pyproject.toml constraints.txt
	$(BIN)/python -m pip install -c constraints.txt -e ".[web,train,onnx,docs,dev]"
	@touch $@ $(VENV)/.demo

setup: $(VENV)/.setup

demo: $(VENV)/.demo
	HF_HUB_OFFLINE=1 $(BIN)/dualspec generate "EVENT: Dog bark & LOCATION: 3 o'clock direction" -o dog.wav --seed 0

test: setup
	$(TEST_ENV) $(BIN)/python -m pytest

test-slow: setup
	$(TEST_ENV) $(BIN)/python -m pytest -m "slow and not gpu and not weights" --timeout 3600

# Warnings are errors. The variable silences an announcement of the theme's makers: it is kept up until May 2027.
docs: setup
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

lint: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: setup
	$(BIN)/mypy

check: lint types
	$(BIN)/coverage erase
	$(TEST_ENV) $(BIN)/coverage run -m pytest
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage report

bench: setup
	$(BIN)/python benchmarks/run.py --write docs/performance.md
	$(BIN)/python benchmarks/corpus_throughput.py --clips 100 --rows 20000
	$(BIN)/python benchmarks/paper_size.py --size tiny
	$(BIN)/python benchmarks/paper_speed.py --size tiny --compile --compare --clips 2 --sampler ddpm:4 --sampler dpmpp:4

mutants: setup
	$(TEST_ENV) $(BIN)/python tests/mutations.py

# atheris has wheels for Linux alone, and no test needs it: it gets an environment of its own that sees ours.
.venv-fuzz/.made: $(VENV)/.setup
	$(PYTHON) -m venv .venv-fuzz
	$(BIN)/python -c "import site; print(site.getsitepackages()[0])" > $$(.venv-fuzz/bin/python -c "import site; print(site.getsitepackages()[0])")/ours.pth
	.venv-fuzz/bin/python -m pip install "atheris>=3.0"
	@touch $@

MINUTES ?= 30
fuzz: .venv-fuzz/.made
	$(TEST_ENV) .venv-fuzz/bin/python tests/fuzz/coverage_guided.py --minutes $(MINUTES)

format: setup
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

licences: setup
	$(BIN)/python tools/licences.py > docs/licences.md.tmp
	mv docs/licences.md.tmp docs/licences.md

# The tools of the next two have packages of their own, which are none of ours: they get their own environment.
.venv-audit/.made:
	$(PYTHON) -m venv .venv-audit
	.venv-audit/bin/python -m pip install "cyclonedx-bom>=7" "pip-audit>=2.9"
	@touch $@

sbom: setup .venv-audit/.made
	.venv-audit/bin/cyclonedx-py environment --pyproject pyproject.toml --output-reproducible -o sbom.json $(BIN)/python

audit: setup .venv-audit/.made
	.venv-audit/bin/pip-audit --path $$($(BIN)/python -c "import site; print(site.getsitepackages()[0])")

clean:
	rm -rf .pytest_cache .ruff_cache .mypy_cache .hypothesis .coverage .coverage.* build dist site .venv-audit .venv-fuzz sbom.json
