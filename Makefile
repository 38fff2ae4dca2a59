# Every target sets up what it needs: `make demo` and `make test` work in a fresh clone.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
PIP := $(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt

# What `make demo` looks at: a file of yours, or `-` for standard input. Unset: a source file of the standard library.
TEXT ?=
# Where it puts the page and the figures.
OUT ?= regard-look
# Further options, handed on as they are: make bench ARGS="--quick --only causal".
ARGS ?=
# Two processes of one thread each: with more, they wait for each other. One process: make test WORKERS=0.
WORKERS ?= 2

# The page's tools, for development only. A stamp of npm's own: older than the lock file means to install again.
NODE := node_modules/.package-lock.json

.PHONY: help demo test lint lint-page page types bench train figures clean

help:
	@echo "make demo     look at the attention of a small trained model (TEXT=file to choose the text)"
	@echo "make test     lint, types, tests, doctests and the README's snippets"
	@echo "make lint     ruff, and eslint and prettier where there is Node 20    make types    mypy alone"
	@echo "make page     build the page of regard.look from src/regard/look/page (needs Node 20)"
	@echo "make bench    times beside torch's own (ARGS='--quick')"
	@echo "make train    train the demo model again (ARGS='--help')"
	@echo "make figures  draw the README's picture again"
	@echo "make clean    remove everything make has made, the environment included"

# Two steps, so that the build backend comes from the same pins as the rest: an isolated build would ignore them.
$(READY): pyproject.toml constraints.txt
	@echo "Setting up $(VENV): once, and a few minutes where packages must be downloaded."
	@$(PYTHON) -c 'import sys; sys.exit("make needs Python 3.11 or newer; name one: make PYTHON=python3.12" if sys.version_info < (3, 11) else 0)'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) hatchling
	$(PIP) --no-build-isolation -e '.[all]'
	@touch $@

demo: $(READY)
	$(BIN)/regard look $(if $(TEXT),"$(TEXT)") --out "$(OUT)" $(ARGS)

test: lint types
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist worksteal $(ARGS)

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	@if node -e 'const [a, b] = process.versions.node.split("."); process.exit(a > 20 || (a == 20 && b >= 19) ? 0 : 1)' 2>/dev/null; \
	then $(MAKE) --no-print-directory lint-page; \
	else echo "SKIPPED: the page's scripts are not linted: no Node 20.19 or newer on this machine (npm is development only)"; fi

lint-page: $(NODE)
	npm run --silent lint

$(NODE): package-lock.json
	npm ci --no-progress
	@touch $@

page: $(NODE)
	npm run --silent build

types: $(READY)
	$(BIN)/mypy

bench: $(READY)
	$(BIN)/regard bench $(ARGS)

train: $(READY)
	$(BIN)/python -m regard.demo.train $(ARGS)

figures: $(READY)
	$(BIN)/python docs/figures.py $(ARGS)

clean:
	rm -rf $(VENV) node_modules build dist regard-look .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find src tests examples docs -name __pycache__ -type d -prune -exec rm -rf {} + 2>/dev/null || true
