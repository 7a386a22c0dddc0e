# Every target works on a bare checkout: it makes what it needs, and nothing twice.
# Needed on the machine: make, npm, and Python 3.11 or newer (PYTHON=/path/to/python picks one).

SHELL := /bin/sh
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help setup run demo check test test-long coverage bench screenshots lint format lock image image-check

VENV := .venv
BIN := $(VENV)/bin
STAMPS := $(VENV)/.stamps
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
ARGS ?=
# Processes that run tests side by side. More than cores, as many tests wait for programs they started.
WORKERS ?= 3
SIDE_BY_SIDE = --numprocesses $(WORKERS) --no-loadscope-reorder
PYTEST = $(BIN)/python -m pytest $(SIDE_BY_SIDE)

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-11s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(STAMPS)/project ## .venv with the locked dependencies, and the front-end files
	@$(BIN)/python hatch_build.py

run: setup ## Vantage on http://127.0.0.1:8000, data in ./data (ARGS="--port 9000" adds options)
	@exec $(BIN)/vantage serve --data ./data $(ARGS)

demo: setup ## the same, with live demo traffic
	@exec $(BIN)/vantage serve --data ./data --demo $(ARGS)

check: lint test ## the gate of every change: lint, then all tests

test: setup $(STAMPS)/dev ## all tests, in their short variants (ARGS="-k word" selects)
	$(PYTEST) -m "not long" $(ARGS)

test-long: setup $(STAMPS)/dev ## all tests, with the full counts
	VANTAGE_TEST_LONG=1 $(PYTEST) $(ARGS)

coverage: setup $(STAMPS)/dev ## all tests, then the lines and branches that they ran, in every process
	@$(BIN)/coverage erase
	$(BIN)/coverage run -m pytest $(SIDE_BY_SIDE) -m "not long" $(ARGS)
	@$(BIN)/coverage combine --quiet
	$(BIN)/coverage report

bench: setup $(STAMPS)/bench ## the benchmarks, as ratios against baselines of the same run
	$(BIN)/python -m benchmarks $(ARGS)

screenshots: setup $(STAMPS)/dev ## the pictures of README.md again, of a temporary server with the demo's traffic
	$(BIN)/python -m benchmarks.screenshots

lint: setup $(STAMPS)/dev node_modules/.package-lock.json ## ruff, a strict type check, linters of scripts, styles, templates and SQL
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/vulture
	@$(BIN)/lint-imports >/dev/null || $(BIN)/lint-imports
	node_modules/.bin/biome lint --error-on-warnings
	$(BIN)/djlint --lint --quiet templates
	$(BIN)/sqlfluff lint --nocolor migrations/clickhouse
	$(BIN)/mypy

format: setup $(STAMPS)/dev node_modules/.package-lock.json ## rewrites files as `make lint` wants them
	$(BIN)/ruff check --fix-only --exit-zero
	$(BIN)/ruff format
	node_modules/.bin/biome lint --write

image: ## the container image, with docker or buildah, and what it installs by size
	@.ci/image build
	@.ci/image sizes

image-check: ## runs the image, and waits until it is healthy
	@.ci/image check

# Server first: the others are held to its versions, since all share one environment. uv resolves for every Python and platform at once.
COMPILE = $(BIN)/uv pip compile --quiet --upgrade --universal --python-version 3.11 --generate-hashes \
	--no-annotate --no-emit-index-url --no-emit-find-links --custom-compile-command "make lock"
# What the roles need of the image. Litestar requires polyfactory for examples in its schema, which are switched off;
# polyfactory requires faker, 22 MB of names and addresses.
IMAGE_EXTRAS = --extra server --extra clickhouse --extra kafka --extra postgres --extra redis \
	--no-emit-package polyfactory --no-emit-package faker
lock: $(STAMPS)/venv ## resolves all dependencies again, to their newest versions
	$(PIP) install "uv>=0.9"
	$(COMPILE) pyproject.toml --extra server --output-file requirements/server.txt
	$(COMPILE) pyproject.toml --extra server --group dev --constraints requirements/server.txt --output-file requirements/dev.txt
	$(COMPILE) pyproject.toml --extra server --group bench --constraints requirements/dev.txt --output-file requirements/bench.txt
	$(COMPILE) pyproject.toml $(IMAGE_EXTRAS) --constraints requirements/dev.txt --output-file requirements/image.txt
	$(COMPILE) --group build --constraints requirements/dev.txt --output-file requirements/build.txt
	npm install --package-lock-only --ignore-scripts --no-audit --no-fund

# Stamps: a file per finished step, older than nothing it was made from.

$(STAMPS)/venv:
	@python=""; \
	for candidate in $(if $(PYTHON),"$(PYTHON)",python3.13 python3.12 python3.11 python3); do \
	  if "$$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then python="$$candidate"; break; fi; \
	done; \
	if [ -z "$$python" ]; then \
	  echo "vantage: $(if $(PYTHON),$(PYTHON) is not,no) Python 3.11 or newer$(if $(PYTHON),, found): install one or set PYTHON=/path/to/python" >&2; exit 1; \
	fi; \
	if ! "$$python" -c 'import venv, ensurepip' >/dev/null 2>&1; then \
	  echo "vantage: $$python cannot make virtual environments: install its venv package (Debian: apt-get install python3-venv)" >&2; exit 1; \
	fi; \
	echo "Making $(VENV) with $$("$$python" -V)"; \
	"$$python" -m venv --clear $(VENV)
	@mkdir -p $(STAMPS) && touch $@

$(STAMPS)/server: requirements/server.txt | $(STAMPS)/venv
	@echo "Installing the server's dependencies"
	@$(PIP) install --require-hashes -r requirements/server.txt
	@touch $@

$(STAMPS)/build: requirements/build.txt | $(STAMPS)/server
	@$(PIP) install --require-hashes -r requirements/build.txt
	@touch $@

$(STAMPS)/project: pyproject.toml $(STAMPS)/server $(STAMPS)/build
	@$(PIP) install --no-deps --no-build-isolation --no-index --editable .
	@touch $@

# After the project, as two installs into one environment must not run side by side.
$(STAMPS)/dev: requirements/dev.txt $(STAMPS)/server | $(STAMPS)/project
	@echo "Installing what tests and checks need"
	@$(PIP) install --require-hashes -r requirements/dev.txt
	@touch $@

node_modules/.package-lock.json: package.json package-lock.json .npmrc
	@echo "Installing the linter of scripts and styles"
	@npm ci --ignore-scripts --no-audit --no-fund --loglevel=error >/dev/null
	@touch $@

$(STAMPS)/bench: requirements/bench.txt $(STAMPS)/server
	@echo "Installing what the benchmarks compare with"
	@$(PIP) install --require-hashes -r requirements/bench.txt
	@touch $@
