# Keystile's tasks. `make` alone lists them.

VENV := .venv

.DEFAULT_GOAL := help
.PHONY: help run test check bench torture lock clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-7s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@echo
	@echo "  make run takes PORT=8000, DATA_DIR=var/, GATEWAY_PROCESSES=1, DATABASE_URL= and REDIS_URL=,"
	@echo "  and UPSTREAM=https://... with OPENAPI=file-or-url to sell an API of your own."
	@echo "  make test takes ARGS= for pytest."
	@echo "  make bench takes BENCH_SECONDS=5, BENCH_ROUNDS=3 and ONLY=keystile,lua,…,"
	@echo "  ONLY=drain, or ONLY=scale with SCALE_ROWS=1000000,50000000"
	@echo "  make torture takes CALLS=20000, KILLS=30, SEED= to repeat a run's order of blows,"
	@echo "  and KEEP=folder for the clients' logs and the data."

run: ## Start everything and print where to click; Ctrl-C stops all of it
	@.ci/venv requirements.txt
	@exec $(VENV)/bin/python -m portal.run.supervisor --die-with-parent

test: ## Run every test, browser included
	@.ci/venv requirements-dev.txt
	@CHROMIUM="$$(.ci/chromium)" && export CHROMIUM && exec $(VENV)/bin/python -m pytest $(ARGS)

# Nothing is contacted: the addresses only have to be well-formed.
check: export SECRET_KEY := check
check: export KEY_PEPPER := check
check: export FIELD_KEY := AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=
check: export SANDBOX_WEBHOOK_SECRET := whsec_AAAA
check: export SITE_URL := http://127.0.0.1:8000
check: export DATABASE_URL := postgres://check@127.0.0.1:1/check
check: export REDIS_URL := redis://127.0.0.1:1/0
check: export KEYSTILE_DEMO := 1
check: ## Lint, types, import contract, migrations
	@.ci/venv requirements-dev.txt
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy .
	$(VENV)/bin/lint-imports
	$(VENV)/bin/python -W ignore::RuntimeWarning manage.py makemigrations --check --dry-run
	$(VENV)/bin/python manage.py check

bench: ## Measure the gateway against its peers; rewrites docs/benchmarks.md
	@.ci/venv requirements-dev.txt
	@exec $(VENV)/bin/python -m tests.bench

torture: ## Kill everything at random under load, then reconcile the books
	@.ci/venv requirements-dev.txt
	@exec $(VENV)/bin/python -m tests.torture $(if $(CALLS),--calls=$(CALLS)) \
		$(if $(KILLS),--kills=$(KILLS)) $(if $(SEED),--seed=$(SEED)) $(if $(KEEP),--keep=$(KEEP))

LOCK = uv pip compile pyproject.toml --quiet --universal --python-version 3.11 --generate-hashes \
	--no-emit-index-url --no-emit-find-links --custom-compile-command "make lock"

lock: ## Renew the locks from pyproject.toml (UPGRADE=1 takes newer versions); needs uv
	@command -v uv > /dev/null || { echo "make lock needs uv: https://docs.astral.sh/uv/"; exit 1; }
	$(LOCK) $(if $(UPGRADE),--upgrade) --extra embedded --output-file requirements.txt
	$(LOCK) $(if $(UPGRADE),--upgrade) --extra embedded --extra dev --constraint requirements.txt \
		--output-file requirements-dev.txt

clean: ## Remove the virtual environment and caches; the data in var/ stays
	rm -rf $(VENV) .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -not -path "./var/*" -prune -exec rm -rf {} +
