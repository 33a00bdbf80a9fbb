# `make` alone lists the commands. `make run` and `make test` set everything up themselves.
.DEFAULT_GOAL := help
.PHONY: help run stop test test-fast test-browser drill lint bench setup lock clean

VENV := .venv
PY := $(VENV)/bin/python
FAUST := $(PY) -m faust -A app
HEADRACE_HOME ?= $(CURDIR)/.headrace
DEMO ?= 1
FAST := not broker and not slow and not faults and not browser
# Tests with a broker mostly wait; who is done takes over what waits with another.
PER_CORE := -n logical --maxprocesses 4 --dist worksteal

# Version shims may exist on the PATH and still fail: every candidate is tried by running it.
PYTHONS := $(or $(PYTHON),python3.13 python3.12 python3.11 python3)
SUPPORTED := import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))
USABLE := import ensurepip, pathlib, sysconfig, venv; \
	headers = pathlib.Path(sysconfig.get_path("include"), "Python.h"); \
	assert headers.is_file(); $(SUPPORTED)
NO_PYTHON := error: none of "$(PYTHONS)" is usable: install Python 3.11, 3.12 or 3.13 with venv and \
	headers (Debian: apt-get install python3-venv python3-dev), or give PYTHON=/path/to/python
NO_COMPILER := error: no C compiler: install one (Debian: apt-get install gcc libc6-dev), \
	because two of the packages exist as source only

help: ## List the commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-14s %s\n", $$1, $$2 }' Makefile

run: setup ## Start a worker with its own Kafka, host metrics and demo traffic (DEMO=0: no traffic)
	@mkdir -p "$(HEADRACE_HOME)/make-run"
	@echo "Headrace's page: http://127.0.0.1:$${HEADRACE_WEB_PORT:-6066}/ (Ctrl-C stops the worker)"
	@sh -c 'echo > "$(HEADRACE_HOME)/make-run/$$$$"; export HEADRACE_COLLECT=1 HEADRACE_DEMO=$(DEMO); \
		exec $(FAUST) worker -l info'

stop: ## Stop the workers that make run started, and the embedded Kafka
	@if [ -x $(PY) ]; then $(PY) -c "$$STOP_WORKERS" "$(HEADRACE_HOME)/make-run" && \
		$(FAUST) broker stop; else echo "nothing to stop: no $(VENV) yet"; fi

test: lint ## Everything but the browser: lint, unit tests, broker tests, fault drills
	$(PY) -m pytest $(PER_CORE) -m "$(FAST)"
	$(PY) -m pytest $(PER_CORE) -m "slow and not broker and not faults and not browser"
	$(PY) -m pytest $(PER_CORE) -m "broker and not faults and not browser"
	$(PY) -m pytest $(PER_CORE) -m "faults and not browser"

test-fast: setup ## Unit tests only, without a broker
	$(PY) -m pytest $(PER_CORE) -m "$(FAST)"

test-browser: setup ## The page in a real Chromium
	$(PY) -m pytest -m browser

drill: setup ## N random fault drills (N=20, SEED=1), each exact or the command fails
	$(PY) -m tests.faults.campaign $(or $(N),20) --seed $(or $(SEED),1)

lint: setup ## ruff, mypy, import directions
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports

bench: setup ## Measure events per CPU second against plain Faust; writes benchmarks/results/
	$(PY) -m benchmarks

setup: ## Virtual environment, locked packages, front-end libraries (done by the others)
	@[ -x $(PY) ] && $(PY) -c '$(SUPPORTED)' 2>/dev/null || { \
		found=; \
		for python in $(PYTHONS); do \
			if "$$python" -c '$(USABLE)' >/dev/null 2>&1; then found=$$python; break; fi; \
		done; \
		[ -n "$$found" ] || { echo '$(NO_PYTHON)' >&2; exit 1; }; \
		echo "Creating $(VENV) with $$("$$found" -V) ..."; \
		"$$found" -m venv --clear $(VENV); }
	@cmp -s requirements.lock $(VENV)/installed.lock || { \
		{ command -v cc || command -v gcc || command -v clang; } >/dev/null || { echo '$(NO_COMPILER)' >&2; exit 1; }; \
		echo "Installing the locked packages (about a minute, once) ..."; \
		$(PY) -m pip --version >/dev/null 2>&1 || $(PY) -m ensurepip >/dev/null || exit 1; \
		{ command -v uv >/dev/null && \
			uv pip install --python $(PY) --require-hashes -r requirements.lock; } || \
		$(PY) -m pip install --disable-pip-version-check --require-hashes -r requirements.lock || exit 1; \
		cp requirements.lock $(VENV)/installed.lock; }
	@$(PY) -m web.page.install

lock: setup ## Pin the packages of pyproject.toml anew, with hashes, for Python 3.11 to 3.13
	env -u PIP_FIND_LINKS -u UV_FIND_LINKS $(VENV)/bin/uv pip compile pyproject.toml \
		--universal --python-version 3.11 --all-extras --generate-hashes \
		--no-emit-index-url --no-emit-find-links --custom-compile-command "make lock" \
		--quiet --output-file requirements.lock

clean: ## Remove what set-up and the tools made; the state folder stays
	rm -rf $(VENV) web/page/node_modules dist build benchmarks/results \
		.mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -prune -exec rm -rf {} +

# Only processes that are still a worker are signalled: a recorded id may belong to another by now.
define STOP_WORKERS
import pathlib, sys
import psutil
records = pathlib.Path(sys.argv[1])
workers = []
for record in records.glob("*"):
    try:
        worker = psutil.Process(int(record.name))
        if "worker" in worker.cmdline() and "faust" in worker.cmdline():
            print(f"stopping worker {worker.pid} ...", flush=True)
            worker.terminate()
            workers.append(worker)
    except (psutil.NoSuchProcess, ValueError):
        pass
    record.unlink(missing_ok=True)
alive = psutil.wait_procs(workers, timeout=40)[1]
for worker in alive:
    (records / str(worker.pid)).touch()
    print(f"error: worker {worker.pid} still runs after 40 s: kill -9 {worker.pid}", file=sys.stderr)
sys.exit(bool(alive))
endef
export STOP_WORKERS
