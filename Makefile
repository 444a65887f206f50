# Two commands for a newcomer: `make run` and `make test`. They need Python 3.11 or later with pip, and nothing else.

PYTHON ?= python3
HOST ?= 127.0.0.1
PORT ?= 8000

BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet --constraint constraints.txt

# Where the demonstration keeps its records: apart from those of `make run`.
DEMO_VAR := var/demo

.PHONY: help run demo test test-postgres test-faults test-station images dashboards check lint types imports format audit clean

help:  ## Say what there is to make
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-13s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

run: .venv/runtime-installed  ## Start the service with the committed bundle; HOST= and PORT= change the address
	@exec $(BIN)/atsnet serve --host $(HOST) --port $(PORT) --log-format console

demo: .venv/runtime-installed  ## Start the service and a simulated line of two stations; Ctrl-C ends both
	@exec $(BIN)/atsnet simulate-line --serve $(DEMO_VAR) --url http://$(HOST):$(PORT) --stations 2 --burst 4 $(LINE)

# A process for each of up to four processors, with all tests of a file in one of them.
test: .venv/tests-installed  ## Run every test that needs no GPU and no PostgreSQL
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist loadfile

test-postgres: .venv/tests-installed  ## Run the tests of the records on a PostgreSQL server that they start
	$(BIN)/python -m pytest -m postgres tests/service

FAULTS_SEED ?= 1
test-faults: .venv/tests-installed .cache/schemathesis/installed  ## Kill, fill, lock, flood and garble for a quarter of an hour; as root, with libfaketime
	$(BIN)/python -m pytest tests/faults --long --seed $(FAULTS_SEED) -o log_cli=true -o log_cli_level=INFO -o log_cli_format='%(message)s'

test-station: .venv/tests-installed  ## Build the station and run it on a Docker engine, as root on Debian; installs what it needs
	$(BIN)/python -m pytest -m station tests/station -o log_cli=true -o log_cli_level=INFO -o log_cli_format='%(message)s'

images:  ## Build the station's images, cpu and gpu, with the Docker that is here
	docker compose -f docker-compose.yml -f docker/compose.cpu.yml build inspection
	docker compose build inspection

dashboards: .venv/tests-installed  ## Write Grafana's dashboards anew from docker/grafana/atsnet_dashboards
	cd docker/grafana && $(CURDIR)/$(BIN)/python -m atsnet_dashboards

check: lint types imports  ## Lint, types and import rules

lint: .venv/tests-installed
	$(BIN)/ruff check
	$(BIN)/ruff format --check

types: .venv/tests-installed
	$(BIN)/mypy

imports: .venv/tests-installed
	$(BIN)/lint-imports

format: .venv/tests-installed  ## Bring the code into the house's format
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

audit: .venv-audit/installed  ## Compare every pinned version with the flaws that are known; needs the web
	.venv-audit/bin/pip-audit --strict --disable-pip --no-deps --requirement constraints.txt

clean:  ## Remove the environment and every cache; var/ and runs/ stay
	rm -rf .venv .venv-audit .cache/schemathesis .cache/station .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache *.egg-info

.venv/created:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or later is needed; this is " + sys.version.split()[0] + ". Name another one with PYTHON=...")'
	$(PYTHON) -m venv .venv
	@touch $@

# Apart from .venv, so that no pin of ours holds it back and none of its packages is taken for ours.
.venv-audit/installed:
	$(PYTHON) -m venv .venv-audit
	@.venv-audit/bin/python -m pip --disable-pip-version-check install --quiet 'pip-audit>=2.9'
	@touch $@

# Apart from .venv: pytest would load it into every test.
.cache/schemathesis/installed: tests/faults/schemathesis.txt
	$(PYTHON) -m venv .cache/schemathesis
	@.cache/schemathesis/bin/python -m pip --disable-pip-version-check install --quiet --no-deps --requirement $<
	@touch $@

# No torch: what the service needs and no more.
.venv/runtime-installed: .venv/created pyproject.toml constraints.txt
	@echo "installing the runtime into .venv ..."
	@$(PIP) --editable '.[cpu]'
	@touch $@

.venv/tests-installed: .venv/created pyproject.toml constraints.txt
	@echo "installing the runtime, training and test requirements into .venv ..."
	@# torch first and alone: its exact version keeps the resolver from looking at other builds.
	@$(PIP) "$$(grep '^torch==' constraints.txt)"
	@$(PIP) --editable '.[cpu,postgres,triton,train,dev]'
	@touch $@ .venv/runtime-installed
