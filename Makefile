# Two commands do everything on a fresh Debian machine, as root: `make demo` and `make test`.
SHELL := /bin/sh
BULLE := .venv/bin/bulle
PREPARE := sh orchestrator/machine/prepare.sh

.PHONY: demo down test lint images bench unit integration cluster-test lock clean

demo: ## set everything up and start the demo on loopback
	@$(PREPARE) demo
	@$(BULLE) demo up

down: ## stop the demo; nothing is left running or mounted
	@$(PREPARE) demo
	@$(BULLE) demo down

test: ## set everything up for the tests and pass them all
	@$(PREPARE) test
	@$(MAKE) --no-print-directory lint
	@.venv/bin/python -m pytest -n 2 --dist worksteal tests/unit
	@.venv/bin/python -m orchestrator.machine.images
	@.venv/bin/python -m pytest tests/integration
	@.venv/bin/python -m pytest tests/cluster

unit:
	@$(PREPARE) test
	@.venv/bin/python -m pytest -n 2 --dist worksteal tests/unit

integration:
	@$(PREPARE) test
	@.venv/bin/python -m orchestrator.machine.images
	@.venv/bin/python -m pytest tests/integration

cluster-test: ## the chart on a real Kubernetes, which it builds (once), starts and stops
	@$(PREPARE) test
	@.venv/bin/python -m pytest tests/cluster

lint: ## ruff, mypy strict, import-linter
	@$(PREPARE) test
	@.venv/bin/ruff check --quiet .
	@.venv/bin/ruff format --quiet --check .
	@.venv/bin/mypy orchestrator
	@.venv/bin/lint-imports

images: ## build the container images
	@$(PREPARE) demo
	@.venv/bin/python -m orchestrator.machine.images

bench: ## measure, each figure beside its peer; writes benchmarks/results.json
	@$(PREPARE) test
	@.venv/bin/python -m orchestrator.machine.images
	@.venv/bin/python -m benchmarks

lock: ## resolve the dependencies again; records no download address
	@$(PREPARE) test
	@.venv/bin/python -m pip install -q uv
	@.venv/bin/uv pip compile --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header -q pyproject.toml -o images/requirements.lock
	@.venv/bin/uv pip compile --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header -q --extra test -c images/requirements.lock pyproject.toml -o tests/requirements.lock
	@.venv/bin/uv pip compile --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header -q tests/unit/helm/requirements.in -o tests/unit/helm/requirements.lock

clean:
	rm -rf build .venv
