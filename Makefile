# `make run` and `make test` set up whatever they need; start with `make help`.

PYTHON ?= python3
PORT ?= 8787
LOCAL := .venv/bin/python -m local
export PORT

.DEFAULT_GOAL := help
.PHONY: help run test test-pooler test-pg15 test-long demo check format bench scale simulate mutants lock clean setup

help: ## Show this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/\1|\2/p' $(MAKEFILE_LIST) | \
		while IFS='|' read -r name text; do printf '  make %-11s %s\n' "$$name" "$$text"; done

# Cheap when nothing changed, so it is no file target: local/bootstrap.py compares content, not times.
setup:
	@command -v $(PYTHON) >/dev/null || { \
		echo "There is no $(PYTHON). Install Python 3.11 or newer, or name it: make PYTHON=/path/to/python3"; exit 1; }
	@exec $(PYTHON) local/bootstrap.py

run: setup ## Serve the marketplace on http://127.0.0.1:8787 (PORT=… for another port)
	@exec $(LOCAL) run

test: setup ## Run all tests (ARGS="-k name" picks some)
	@exec $(LOCAL) test $(ARGS)

POOLED := tests/contract tests/worker/test_publish_path.py tests/worker/test_many_at_once.py

test-pooler: setup ## Run the contract tests, and publishing in the Worker, behind a real PgBouncer
	@exec $(LOCAL) test --pooler $(or $(ARGS),$(POOLED))

test-pg15: setup ## Run the contract tests on Debian's PostgreSQL 15
	@exec $(LOCAL) test --pg15 $(or $(ARGS),tests/contract -k "not double")

test-long: setup ## Run what takes hours: faults, overload, searches, N=50000 schedules (bench/RESULTS-long.md)
	@PYTHONPATH=src:. exec .venv/bin/python -m tests.long N=$(or $(N),50000) $(ARGS)

demo: setup ## Publish 300 generated skills to the running marketplace (COUNT=…)
	@exec $(LOCAL) demo $(if $(COUNT),--count $(COUNT))

check: setup ## Lint, formatting and types
	@.venv/bin/ruff check .
	@.venv/bin/ruff format --check .
	@.venv/bin/mypy

format: setup ## Format the code and fix what ruff can fix
	@.venv/bin/ruff check --fix .
	@.venv/bin/ruff format .

bench: setup ## Measure the listing under load (bench/)
	@PYTHONPATH=src:. exec .venv/bin/python -m bench $(ARGS)

scale: setup ## Measure rebuild, health and fallback at 110,000 skills, a quarter of an hour (bench/scale.py)
	@PYTHONPATH=src:. exec .venv/bin/python -m bench.scale $(ARGS)

simulate: setup ## Run N=2000 random fault schedules of the marketplace (tests/simulation)
	@PYTHONPATH=src:. exec .venv/bin/python -m tests.simulation N=$(or $(N),2000) $(ARGS)

mutants: setup ## Change N=60 random tokens of the code and count what tests notice
	@PYTHONPATH=src:. exec .venv/bin/python -m tests.mutants N=$(or $(N),60) $(ARGS)

lock: setup ## Compile the lock files anew from pyproject.toml and package.json
	@exec $(LOCAL) lock

clean: ## Remove everything that set-up and runs have made, data included
	@exec $(PYTHON) local/bootstrap.py clean
