SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory
unexport PYTHONDONTWRITEBYTECODE # half the time of the fast tests is compiling

PYTHON ?= $(shell for python in python3.13 python3.12 python3.11 python3; do \
	"$$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo "$$python" && break; done)
BIN := .venv/bin
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes
COMPILE := $(BIN)/uv pip compile --quiet --generate-hashes --universal --python-version 3.11 \
	--no-header --no-annotate --no-emit-index-url --no-emit-find-links
# An image gets the name of a release only at the commit with its tag. git describe appends .dirty for changed files.
IMAGE_TAG = $(shell [ "$$(git describe --tags --exact-match --match 'v$(VERSION)' --dirty=.dirty 2>/dev/null)" = "v$(VERSION)" ] \
	&& echo $(VERSION) || echo "$(VERSION)-dev.$$(git describe --always --exclude '*' --abbrev=7 --dirty=.dirty)")
VERSION = $(shell sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml)
# Parallel test processes. More than the core count pays off because most tests spend their time waiting. The run ends
# when one of them dies, because pytest-xdist hangs if it starts another one with --dist=loadgroup.
JOBS ?= 8
PARALLEL = --numprocesses=$(JOBS) --dist=loadgroup --no-loadscope-reorder --max-worker-restart=0
SOURCES := connector tests deploy examples $(wildcard benchmarks)

.PHONY: help
help: ## List the targets
	@grep -hE '^[a-z0-9.-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | while IFS=$$'\t' read -r name what; do \
		printf '  make %-13s %s\n' "$$name" "$$what"; done

.PHONY: setup dev
setup: .venv/.package ## Make .venv with the pinned runtime requirements and this package: enough to run it
dev: .venv/.requirements ## Add the pinned tools for tests and checks to .venv

.venv/.runtime: requirements/runtime.txt requirements/build.txt
	@if [ -z "$(PYTHON)" ]; then echo 'Python 3.11 or newer is needed: install it, or run `make PYTHON=...`' >&2; exit 1; fi
	@[ -x $(BIN)/python ] || $(PYTHON) -m venv .venv
	@$(INSTALL) --requirement requirements/runtime.txt --requirement requirements/build.txt
	@touch $@

.venv/.package: .venv/.runtime pyproject.toml
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

.venv/.requirements: .venv/.package requirements/dev.txt
	@$(INSTALL) --requirement requirements/dev.txt
	@touch $@

.PHONY: format
format: dev ## Format the code and apply automatic fixes
	@$(BIN)/ruff check --quiet --fix-only $(SOURCES)
	@$(BIN)/ruff format $(SOURCES)

.PHONY: check
check: dev ## Format, lint, types, imports, dependencies and the fast tests, in seconds
	@$(MAKE) --jobs=2 --keep-going --output-sync=target check-fast-tests check-types check-format check-lint check-imports check-dependencies \
		check-workflows

.PHONY: check-workflows check-format check-lint check-types check-imports check-dependencies check-fast-tests \
	check-fast-tests-a-m check-fast-tests-n-z
check-format: dev
	@$(BIN)/ruff format --check $(SOURCES)
check-lint: dev
	@$(BIN)/ruff check $(SOURCES)
check-types: dev
	@$(BIN)/mypy
check-imports: dev
	@$(BIN)/lint-imports --no-logo
check-dependencies: dev
	@$(BIN)/deptry connector
check-workflows: dev
	@$(BIN)/python -m tests.workflows
# Two pytest processes, which --jobs=2 runs at once, and which do not share a cache. With pytest-xdist there would be three,
# and each would import all tests.
check-fast-tests: check-fast-tests-a-m check-fast-tests-n-z
FAST_TESTS := $(BIN)/pytest --quiet --hypothesis-profile=quick -p no:cacheprovider
check-fast-tests-a-m: dev
	@$(FAST_TESTS) tests/unit/test_[a-m]*.py
check-fast-tests-n-z: dev
	@$(FAST_TESTS) tests/unit/test_[!a-m]*.py

# The image has Python 3.13, whose rules for certificates are stricter. Version managers may have it outside of PATH.
PYTHON_3_13 ?= $(shell for python in python3.13 $(HOME)/.pyenv/versions/3.13*/bin/python3.13 \
	$(HOME)/.local/share/uv/python/cpython-3.13*/bin/python3.13; do \
	"$$python" -c '' 2>/dev/null && echo "$$python" && break; done)
OF_PYTHON := tests/unit tests/contract/test_identities.py tests/contract/test_transport.py tests/contract/test_proxies.py \
	tests/contract/test_registry.py
.PHONY: check-3.13
check-3.13: out/python3.13/.requirements ## The tests of units, TLS and sign-in on Python 3.13, as in the image
	@out/python3.13/bin/pytest --quiet --hypothesis-profile=quick --numprocesses=2 --dist=worksteal $(OF_PYTHON)

out/python3.13/.requirements: .venv/.requirements
	@if [ -z "$(PYTHON_3_13)" ]; then echo 'Python 3.13 is needed: install it, or set PYTHON_3_13' >&2; exit 1; fi
	@$(BIN)/uv venv --quiet --clear --no-python-downloads --python $(PYTHON_3_13) out/python3.13
	@$(BIN)/uv pip install --quiet --python out/python3.13 --require-hashes --requirement requirements/dev.txt
	@$(BIN)/uv pip install --quiet --python out/python3.13 --no-deps --no-build-isolation --editable .
	@touch $@

.PHONY: test
test: dev ## All tests, also on real Kafka brokers (fetched the first time)
	@nice $(BIN)/python -m tests.tools & $(BIN)/pytest $(PARALLEL) \
		$(if $(KEEP_DURATIONS),--keep-durations)

# What the guarantee asks of a broker: transactions, fencing, exactly once, restore, hanging transactions. Kafka 4.2 does
# not have the fault that makes them hang (KAFKA-20734).
OF_THE_GUARANTEE := tests/integration/test_transactions.py tests/integration/test_restore.py \
	tests/e2e/test_exactly_once.py tests/e2e/test_fencing.py
OF_HANGING := tests/integration/test_hanging.py tests/e2e/test_hanging.py
.PHONY: matrix
matrix: setup ## The broker tests of the guarantee on each Kafka version; KAFKA_VERSIONS="4.2.2" runs one
	@failed=; for version in $(or $(KAFKA_VERSIONS),4.2.2 4.3.0 4.4.0); do \
		case $$version in 4.[0-2].*) hanging= ;; *) hanging="$(OF_HANGING)" ;; esac; \
		echo "--- Kafka $$version"; \
		KAFKA_VERSION=$$version KAFKA_BOOTSTRAP_SERVERS= $(BIN)/pytest --quiet $(PARALLEL) \
			$(OF_THE_GUARANTEE) $$hanging || failed="$$failed $$version"; \
	done; [ -z "$$failed" ] || { echo "failed on$$failed" >&2; exit 1; }

.PHONY: broker
broker: setup ## Run a real Kafka broker on localhost:9092 until Ctrl-C; PORT=9192 takes another port
	@$(BIN)/python -m tests.brokers --port $(or $(PORT),9092)

.PHONY: demo
demo: setup ## 30 seconds of simulator, broker, connector and consumer; needs nothing else
	@$(BIN)/connector demo --for 30s

.PHONY: chaos
chaos: dev ## Random faults of workers, brokers and connections; SEED=7 (or 1-10), MINUTES=3 per seed
	@$(BIN)/python -m tests.chaos $(if $(SEED),--seeds $(SEED)) $(if $(MINUTES),--minutes $(MINUTES))

.PHONY: soak
soak: dev ## One worker with 200 tenants and faults: memory, threads and files do not grow; MINUTES=30
	@nice $(BIN)/python -m tests.chaos.soak $(if $(MINUTES),--minutes $(MINUTES))

.PHONY: mutants
mutants: dev ## Break one rule after the other and check that a test notices; NAME=word selects some
	@$(BIN)/python -m tests.mutants $(NAME)

.PHONY: bench
bench: .venv/.bench ## Rows per second, compared with the limit, a plain recipe, Quix Streams and Kafka Connect
	@$(BIN)/python -m benchmarks

.PHONY: bench-check
bench-check: .venv/.bench ## Fail when ratios are more than 20 % below those of benchmarks/results.json
	@$(BIN)/python -m benchmarks check

.PHONY: figures
figures: dev ## Measure several workers and 500 tenants; FIGURES="stop idle" selects some figures
	@$(BIN)/python -m benchmarks.fleet $(FIGURES)

.venv/.bench: .venv/.requirements requirements/bench.txt
	@$(INSTALL) --requirement requirements/bench.txt
	@touch $@

.PHONY: dashboards
dashboards: dev ## Generate deploy/grafana/dashboards
	@$(BIN)/python -m deploy.grafana.generator

.PHONY: image
image: ## Build the container image; BASE=python:3.13-slim@sha256:... pins the base image
	@docker build --file deploy/Dockerfile --tag direct-routing-connector:$(IMAGE_TAG) $(if $(BASE),--build-arg BASE=$(BASE)) \
		--build-arg VERSION=$(IMAGE_TAG) --build-arg REVISION="$$(git rev-parse HEAD)" \
		--build-arg CREATED="$$(date --utc +%Y-%m-%dT%H:%M:%SZ)" .

.PHONY: chart
chart: dashboards ## Write the chart's files that come from others: schema of the values, rules, dashboards, README
	@$(BIN)/python -m deploy.helm.generator

.PHONY: strimzi
strimzi: dev ## Write the topics and users of deploy/strimzi from the code and docs/kafka.md
	@$(BIN)/python -m tests.strimzi

.PHONY: chart-lint chart-package
chart-lint: dev ## Lint the chart and check what it renders; needs Go
	@$(BIN)/pytest --quiet tests/integration/test_chart.py
chart-package: dev ## Write the chart's archive into dist; needs Go
	@$(BIN)/python -m tests.helm dist

.PHONY: wheel sbom version image-tag
wheel: dev ## Write the wheel into dist
	@$(BIN)/python -m pip wheel --quiet --disable-pip-version-check --no-deps --no-build-isolation --wheel-dir dist .
sbom: ## Write what the image contains into dist/sbom.cdx.json
	@mkdir -p dist
	@docker run --rm --entrypoint cat direct-routing-connector:$(IMAGE_TAG) /opt/connector/sbom.cdx.json > dist/sbom.cdx.json
version:
	@echo $(VERSION)
image-tag:
	@echo $(IMAGE_TAG)

.PHONY: docs
docs: dev ## Generate docs/configuration.md, docs/licences.md and docs/asyncapi.yaml
	@$(BIN)/python -m tests.reference
	@$(BIN)/python -m tests.asyncapi
	@$(BIN)/python -m tests.licences

.PHONY: audit
audit: dev ## Look the pinned packages up in the advisory database; fails for unknown packages too
	@$(BIN)/python -m venv --clear out/audit
	@out/audit/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/audit.txt
	@out/audit/bin/pip-audit --strict --require-hashes --disable-pip --requirement requirements/runtime.txt

.PHONY: requirements
requirements: dev ## Pin requirements/*.txt again, with hashes; UPGRADE=--upgrade selects the newest
	@$(COMPILE) $(UPGRADE) pyproject.toml --output-file requirements/runtime.txt
	@$(COMPILE) $(UPGRADE) --group build --output-file requirements/build.txt
	@$(COMPILE) $(UPGRADE) --constraint requirements/runtime.txt --constraint requirements/build.txt --group dev pyproject.toml --output-file requirements/dev.txt
	@$(COMPILE) $(UPGRADE) --constraint requirements/build.txt --group sbom --output-file requirements/sbom.txt
	@$(COMPILE) $(UPGRADE) --constraint requirements/dev.txt --group bench pyproject.toml --output-file requirements/bench.txt
	@$(COMPILE) $(UPGRADE) --group audit --output-file requirements/audit.txt
	@$(COMPILE) $(UPGRADE) --group flink --output-file requirements/flink.txt
	@$(COMPILE) $(UPGRADE) --group msgraph --output-file requirements/msgraph.txt
	@$(COMPILE) $(UPGRADE) --group quix --output-file requirements/quix.txt
	@$(COMPILE) $(UPGRADE) --group sinks --output-file requirements/sinks.txt

.PHONY: clean
clean: ## Remove what the other targets made, except cached downloads
	@rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis build dist out
	@find connector tests benchmarks -name __pycache__ -prune -exec rm -rf {} + 2>/dev/null || true
