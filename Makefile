# Each target sets up what it needs: a virtual environment, remade only when the files below change.
PYTHON ?= python3
VENV ?= .venv
CONSTRAINTS ?= constraints.txt
RUN = $(VENV)/bin/python
# Tests run in as many processes, of one thread each; what else computes takes as many threads.
WORKERS ?= $(shell $(PYTHON) -c "import os; print(min(4, os.cpu_count() or 1))")
# Threads that wait sleep: spinning beside other processes, they would take many times the processor's time.
export OMP_WAIT_POLICY ?= passive
export OMP_NUM_THREADS ?= $(shell $(PYTHON) -c "import os; print(min(2, os.cpu_count() or 1))")

.PHONY: help demo test lint unit test-oldest docs site dist bench clean

help: ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/' | expand -t 16

demo: $(VENV)/.installed ## what the package does, in twenty lines; then figures and tables of the examples, in demo/
	@$(RUN) -m riskvae.demo
	@echo "== figures and tables of the examples, about three minutes"
	@mkdir -p demo
	@for name in quickstart robustness anomalies table; do \
		echo "python examples/plot_$$name.py > demo/$$name.txt"; \
		$(RUN) examples/plot_$$name.py > demo/$$name.txt || { cat demo/$$name.txt; exit 1; }; \
	done

test: unit lint ## doctests, tests, style and types; some twenty minutes

lint: $(VENV)/.installed
	@echo "== style"
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	@echo "== types"
	$(RUN) -m mypy

unit: $(VENV)/.installed
	@echo "== doctests and tests"
	OMP_NUM_THREADS=1 $(RUN) -m pytest -q --numprocesses=$(WORKERS) --durations=5

test-oldest: ## the tests on the oldest supported versions of what users install
	$(MAKE) unit VENV=.venv-oldest CONSTRAINTS=constraints-oldest.txt

docs: $(VENV)/.docs ## pages with guide, examples, API and results, in docs/_build/html; some three minutes
	@echo "== docs: runs the examples that have changed"
	$(RUN) -m sphinx -W --keep-going -n -q docs docs/_build/html
	@echo "pages: docs/_build/html/index.html"

site: docs $(VENV)/.site ## the pages in a browser, without a network: formulas, widths, colors, links, search; two minutes
	@echo "== site: opens every page in Chromium"
	$(RUN) docs/browse.py

dist: $(VENV)/.release ## source and wheel in dist/, checked; the demo from the wheel in a fresh environment; two minutes
	@echo "== dist: source and wheel"
	rm -rf dist build .venv-wheel
	$(RUN) -m build --outdir dist . > build.log 2>&1 || (cat build.log; exit 1)
	@rm build.log
	$(RUN) -m twine check --strict dist/*
	$(RUN) release/check.py "$$TAG"
	$(VENV)/bin/check-jsonschema --builtin-schema vendor.citation-file-format CITATION.cff
	$(VENV)/bin/check-jsonschema --builtin-schema vendor.github-workflows .github/workflows/*.yml
	$(VENV)/bin/check-jsonschema --builtin-schema vendor.github-issue-forms .github/ISSUE_TEMPLATE/bug.yml \
		.github/ISSUE_TEMPLATE/idea.yml
	$(VENV)/bin/check-jsonschema --builtin-schema vendor.dependabot .github/dependabot.yml
	@echo "== dist: the wheel in a fresh environment"
	$(PYTHON) -m venv .venv-wheel
	.venv-wheel/bin/python -m pip install --quiet --disable-pip-version-check -c $(CONSTRAINTS) dist/*.whl
	cd .venv-wheel && bin/python -I -m pip check && bin/python -I -m riskvae.demo

bench: $(VENV)/.installed ## training speed against a hand-written loop and other libraries
	$(RUN) -m pip install --quiet -c $(CONSTRAINTS) -e ".[bench]"
	env -u OMP_WAIT_POLICY $(RUN) benchmarks/training.py

clean: ## remove environments, caches and figures
	rm -rf .venv .venv-oldest .venv-wheel build dist demo .pytest_cache .mypy_cache .ruff_cache .hypothesis
	rm -rf docs/_build docs/auto_examples docs/api/generated

# A path-based ("compat") editable install: by the default one, a script beside the checkout would import the folder.
$(VENV)/.installed: pyproject.toml $(CONSTRAINTS)
	@echo "== setting up $(VENV) (once)"
	@$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 11) and 'riskvae needs Python 3.11 or newer; set PYTHON=...')"
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --disable-pip-version-check -c $(CONSTRAINTS) \
		--config-settings editable_mode=compat -e ".[test,plot,progress,cluster,arrow,onnx]"
	@touch $@

$(VENV)/.docs: $(VENV)/.installed
	$(RUN) -m pip install --quiet --disable-pip-version-check -c $(CONSTRAINTS) \
		--config-settings editable_mode=compat -e ".[docs]"
	@touch $@

$(VENV)/.site: $(VENV)/.docs
	$(RUN) -m pip install --quiet --disable-pip-version-check -c $(CONSTRAINTS) \
		--config-settings editable_mode=compat -e ".[site]"
	@touch $@

$(VENV)/.release: $(VENV)/.installed
	$(RUN) -m pip install --quiet --disable-pip-version-check -c $(CONSTRAINTS) \
		--config-settings editable_mode=compat -e ".[release]"
	@touch $@
