SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory
unexport PYTHONDONTWRITEBYTECODE # half the time of the fast tests is compiling

PYTHON ?= $(shell for python in python3.13 python3.12 python3.11 python3; do \
	"$$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo "$$python" && break; done)
BIN := .venv/bin
COMPILE := $(BIN)/uv pip compile --quiet --generate-hashes --universal --python-version 3.11 \
	--no-header --no-annotate --no-emit-index-url --no-emit-find-links
VERSION = $(shell sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml)
# Of the tests: most of them wait for others.
JOBS ?= 4
SOURCES := connector tests deploy examples $(wildcard benchmarks)

.PHONY: help
help: ## List the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | while IFS=$$'\t' read -r name what; do \
		printf '  make %-13s %s\n' "$$name" "$$what"; done

.PHONY: setup
setup: .venv/.package ## Make .venv with the pinned requirements and this package

.venv/.requirements: requirements/dev.txt
	@if [ -z "$(PYTHON)" ]; then echo 'Python 3.11 or newer is needed: install it, or say `make PYTHON=...`' >&2; exit 1; fi
	@[ -x $(BIN)/python ] || $(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/dev.txt
	@touch $@

.venv/.package: .venv/.requirements pyproject.toml
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

.PHONY: format
format: setup ## Format the code and mend what can be mended without thought
	@$(BIN)/ruff check --quiet --fix-only $(SOURCES)
	@$(BIN)/ruff format $(SOURCES)

.PHONY: check
check: setup ## Format, lint, types, imports and the fast tests, in seconds
	@$(MAKE) --jobs=2 --keep-going --output-sync=target check-fast-tests check-types check-format check-lint check-imports

.PHONY: check-format check-lint check-types check-imports check-fast-tests
check-format: setup
	@$(BIN)/ruff format --check $(SOURCES)
check-lint: setup
	@$(BIN)/ruff check $(SOURCES)
check-types: setup
	@$(BIN)/mypy
check-imports: setup
	@$(BIN)/lint-imports --no-logo
check-fast-tests: setup
	@$(BIN)/pytest --quiet --hypothesis-profile=quick tests/unit

.PHONY: test
test: setup ## Every test, also those on a real Kafka broker (fetched the first time)
	@nice $(BIN)/python -m tests.tools & $(BIN)/pytest --numprocesses=$(JOBS) --dist=loadfile

.PHONY: broker
broker: setup ## Run a real Kafka broker on localhost:9092 until Ctrl-C; PORT=9192 takes another port
	@$(BIN)/python -m tests.brokers --port $(or $(PORT),9092)

.PHONY: demo
demo: setup ## Thirty seconds of simulator, broker, connector and reader; nothing else needed
	@$(BIN)/connector demo --for 30s

.PHONY: chaos
chaos: setup ## Workers, brokers and wires that fail at random; SEED=7 (or 1-10) MINUTES=3 a seed
	@$(BIN)/python -m tests.chaos $(if $(SEED),--seeds $(SEED)) $(if $(MINUTES),--minutes $(MINUTES))

.PHONY: mutants
mutants: setup ## Break one rule after the other and see that a test notices; NAME=word takes those with it
	@$(BIN)/python -m tests.mutants $(NAME)

.PHONY: bench
bench: .venv/.bench ## Rows per second, beside the limit, the plain recipe, Quix Streams and Kafka Connect
	@$(BIN)/python -m benchmarks

.PHONY: bench-check
bench-check: .venv/.bench ## Fail when ratios are more than 20 % below those of benchmarks/results.json
	@$(BIN)/python -m benchmarks check

.PHONY: figures
figures: setup ## What several workers and 500 tenants cost; FIGURES="stop idle" measures some of it
	@$(BIN)/python -m benchmarks.fleet $(FIGURES)

.venv/.bench: .venv/.package requirements/bench.txt
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/bench.txt
	@touch $@

.PHONY: dashboards
dashboards: setup ## Write deploy/grafana/dashboards from their code
	@$(BIN)/python -m deploy.grafana.generator

.PHONY: image
image: ## Build the container image; BASE=python:3.13-slim@sha256:... pins what it is built on
	@docker build --file deploy/Dockerfile --tag direct-routing-connector:$(VERSION) $(if $(BASE),--build-arg BASE=$(BASE)) \
		--build-arg VERSION=$(VERSION) --build-arg REVISION="$$(git rev-parse HEAD)" \
		--build-arg CREATED="$$(date --utc +%Y-%m-%dT%H:%M:%SZ)" .

.PHONY: chart
chart: setup ## Write the configuration's schema into that of the Helm chart's values
	@$(BIN)/python -m tests.helm

.PHONY: docs
docs: setup ## Write docs/configuration.md and docs/licences.md from code and packages
	@$(BIN)/python -m tests.reference
	@$(BIN)/python -m tests.licences

.PHONY: audit
audit: setup ## Ask the advisory database about the pinned packages; fails also for those that it does not know
	@$(BIN)/python -m venv --clear out/audit
	@out/audit/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/audit.txt
	@out/audit/bin/pip-audit --strict --require-hashes --disable-pip --requirement requirements/runtime.txt

.PHONY: requirements
requirements: setup ## Pin requirements/*.txt anew, with hashes; UPGRADE=--upgrade takes the newest
	@$(COMPILE) $(UPGRADE) pyproject.toml --output-file requirements/runtime.txt
	@$(COMPILE) $(UPGRADE) --group build --output-file requirements/build.txt
	@$(COMPILE) $(UPGRADE) --constraint requirements/runtime.txt --constraint requirements/build.txt --group dev pyproject.toml --output-file requirements/dev.txt
	@$(COMPILE) $(UPGRADE) --constraint requirements/build.txt --group sbom --output-file requirements/sbom.txt
	@$(COMPILE) $(UPGRADE) --constraint requirements/dev.txt --group bench pyproject.toml --output-file requirements/bench.txt
	@$(COMPILE) $(UPGRADE) --group audit --output-file requirements/audit.txt
	@$(COMPILE) $(UPGRADE) --group flink --output-file requirements/flink.txt
	@$(COMPILE) $(UPGRADE) --group quix --output-file requirements/quix.txt

.PHONY: clean
clean: ## Remove what the other targets made, but for the downloads in the cache
	@rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis build dist out
	@find connector tests benchmarks -name __pycache__ -prune -exec rm -rf {} + 2>/dev/null || true
