# Everything starts here. `make` alone lists the targets.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
.DEFAULT_GOAL := help
# Tests start many processes: each may begin with the byte code that another has made.
export PYTHONDONTWRITEBYTECODE :=

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(VENV)/.runtime: requirements.lock pyproject.toml sdk/pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(0 if (3, 11) <= sys.version_info < (3, 14) else "Python 3.11, 3.12 or 3.13 is needed; name one with make PYTHON=python3.12")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e sdk -e .
	@touch $@

$(VENV)/.dev: $(VENV)/.runtime requirements-dev.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-dev.lock
	@touch $@

setup: $(VENV)/.dev ## create .venv with run-time and development dependencies

demo: $(VENV)/.runtime ## play a whole session on this machine (DEMO_EXIT=1 stops afterwards)
	@$(BIN)/python examples/demo.py

test: $(VENV)/.dev ## the test suite; ten minutes on two cores is the aim
	$(BIN)/python -m pytest -n 5 --dist loadfile --no-loadscope-reorder -m "not campaign"

check: $(VENV)/.dev ## lint, types, layers, migrations: under a minute
	$(BIN)/ruff check . && $(BIN)/ruff format --check .
	$(BIN)/basedpyright
	$(BIN)/lint-imports
	$(BIN)/python -m pytest -q tests/unit/test_tidy.py

bench: $(VENV)/.dev ## the benchmarks, each against a baseline of the same run
	$(BIN)/python benchmarks/run.py

campaign-kills: $(VENV)/.dev ## 200 kills of the service and 50 of Postgres, with negative controls
	$(BIN)/python -m pytest -s -m campaign tests/fault/test_kills.py --timeout 7200

campaign-races: $(VENV)/.dev ## 5,000 races of close against voucher, sellers' and buyers', over two processes
	$(BIN)/python -m pytest -s -m campaign tests/fault/test_two_processes.py \
	  tests/fault/test_buyer_races.py --timeout 7200

campaign-grants: $(VENV)/.dev ## vouchers race for the last of a grant over two processes, round after round
	$(BIN)/python -m pytest -s -m campaign tests/fault/test_grant_races.py --timeout 7200

campaign-cuts: $(VENV)/.dev ## a connection cut at every byte of an append
	$(BIN)/python -m pytest -s -m campaign tests/fault/test_group_commit_faults.py --timeout 7200

campaign-rpc: $(VENV)/.dev ## every fault of the RPC provider, ten times the seeds of the gate
	FAULT_SEEDS=10 $(BIN)/python -m pytest -s tests/fault/test_settlement_rpc_faults.py --timeout 7200

campaign-restarts: $(VENV)/.dev ## buyers' routes across restarts, kills, long waits and rotated secrets
	$(BIN)/python -m pytest -s -m campaign tests/e2e/test_mpp_sessions.py tests/e2e/test_mpp_session_keys.py \
	  tests/e2e/test_mpp_charge.py tests/e2e/test_mpp_charge_records.py \
	  tests/e2e/test_mpp_restart_sdk.py tests/e2e/test_watcher_routes.py --timeout 7200

campaign-crashes: $(VENV)/.dev ## a crash at every call of a settlement or payment, on the real programs, and at pairs of calls
	$(BIN)/python -m pytest -s -m campaign tests/fault/test_settlement_crashes.py \
	  tests/fault/test_payment_crashes.py --timeout 7200

fuzz: $(VENV)/.dev ## a long run of generated requests against the published OpenAPI document
	$(BIN)/python -m pytest -s -m campaign tests/e2e/test_openapi_fuzz.py --timeout 7200

docs: $(VENV)/.dev ## remake the generated documents
	$(BIN)/python docs/generate.py

format: $(VENV)/.dev ## rewrite the sources in the house format
	$(BIN)/ruff check --fix . && $(BIN)/ruff format .

lock: $(VENV)/.dev ## remake the lock files from pyproject.toml (names, versions and hashes only)
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header \
	  --no-emit-package session-ledger-client --no-annotate --group build pyproject.toml -o requirements.lock
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header \
	  --no-emit-package session-ledger-client --no-annotate --group build --group dev pyproject.toml -c requirements.lock -o requirements-dev.lock

.PHONY: help setup demo test check bench campaign-kills campaign-races campaign-grants campaign-cuts campaign-restarts campaign-crashes campaign-rpc fuzz docs format lock
