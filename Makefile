# The whole day: set up, demo, test, lint, bench, docs. Everything lives in .venv; remove it to start afresh.
PYTHON ?= python3
VENV := .venv
# Tests at once; those of one file stay together.
JOBS ?= 2
BIN := $(VENV)/bin

.PHONY: alerts help setup setup-dev demo check test nightly test-s3 chaos drills fuzz fuzz-http fuzz-decoder lint format bench results peers docs clean

help:          ## this list
	@grep -E '^[a-z-]+: .*##' $(MAKEFILE_LIST) | sed 's/:.*##/ —/'

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Tailorbird needs Python 3.11 or newer; name one: make $(MAKECMDGOALS) PYTHON=python3.11"; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.all: pyproject.toml | $(BIN)/python
	@echo "Installing Tailorbird into $(VENV): about 60 packages, two minutes, once"
	$(BIN)/python -m pip install --disable-pip-version-check -e '.[all]'
	@touch $@

$(VENV)/.dev: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --disable-pip-version-check -e '.[dev]'
	@touch $@ $(VENV)/.all

setup: $(VENV)/.all         ## install what running needs
	@echo "Ready. To type tailorbird instead of $(BIN)/tailorbird:  . $(VENV)/bin/activate"

setup-dev: $(VENV)/.dev     ## install what developing needs too

# Tests run in one process a core, so each computes with one thread: more would wait for each other.
check test nightly: export OMP_NUM_THREADS = 1
check test nightly: export OPENBLAS_NUM_THREADS = 1

demo: setup    ## the whole loop on a synthetic site; ONCE=1 ends by itself and prints the figures
	$(BIN)/tailorbird demo $(if $(ONCE),--once) $(DEMO)

alerts:        ## check the Prometheus rules and play their tests, if promtool is installed
	@if command -v promtool >/dev/null; then \
		promtool check rules deploy/prometheus/alerts.yml deploy/prometheus/slo.yml && promtool test rules deploy/prometheus/slo_tests.yml; \
	else echo "promtool is not installed: apt-get install prometheus"; fi

check: setup-dev    ## lint, types and all tests but slow ones: five minutes on two cores
	$(MAKE) --no-print-directory lint
	$(BIN)/python -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder -m 'not slow and not nightly' $(PYTEST)

test: setup-dev    ## lint, types and all tests but nightly ones: 32 minutes in CI, on two cores
	@sh tests/system_packages.sh
	$(MAKE) --no-print-directory lint
	$(BIN)/python -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder -m 'not nightly' $(PYTEST)

nightly: setup-dev    ## every test, and longer runs of some: not timed yet as a whole
	@sh tests/system_packages.sh
	NIGHTLY=1 $(BIN)/python -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder $(PYTEST)

test-s3: setup-dev    ## the whole suite of the lake on object storage too (five minutes)
	TAILORBIRD_TEST_S3=all $(BIN)/python -m pytest -q tests/lake

fuzz: setup-dev    ## features drawn at random against each other for FUZZ_MINUTES=15; keeps what fails in fuzz-failures/; FUZZ=--mutants tries the suite itself
	$(BIN)/python -m tests.features.fuzzing.run --minutes $(or $(FUZZ_MINUTES),15) $(FUZZ)

fuzz-http: setup-dev    ## requests drawn from the API's own document, and damaged bodies: FUZZ_EXAMPLES=2000 of each kind
	FUZZ_EXAMPLES=$(or $(FUZZ_EXAMPLES),2000) $(BIN)/python -m pytest -q tests/serving/http/test_schemathesis.py tests/serving/http/test_fuzz.py

fuzz-decoder: setup-dev    ## bodies that Atheris makes by watching the decoder's branches: FUZZ_SECONDS=60; Linux with a wheel of atheris
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[fuzz]'
	$(BIN)/python -m tests.serving.http.fuzz_decoder $(or $(FUZZ_SECONDS),60)

chaos: setup-dev    ## kills at every sync and write of every role, power cuts, full disks: KILLS=1500; CHAOS=--mutants tries the checks themselves
	@sh tests/system_packages.sh
	$(BIN)/python -m tests.faults.chaos $(if $(KILLS),--kills $(KILLS)) $(CHAOS)

drills: setup-dev    ## parts die while somebody asks: 30,000 requests of each drill, or REQUESTS=3000; DRILL=server plays one
	@sh tests/system_packages.sh
	$(BIN)/python -m tests.faults.drills --json docs/drills.json $(if $(REQUESTS),--requests $(REQUESTS)) $(if $(DRILL),--drill $(DRILL))
	$(BIN)/python docs/drills_page.py

lint: setup-dev    ## style and types (the import rules are a test)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyrefly check

format: setup-dev    ## rewrite to the house style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: setup-dev    ## the benchmarks, small, beside their peers; full ones: python -m benchmarks.NAME
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[bench]'
	@for name in $$(grep -l '"--small"' benchmarks/*.py | xargs -n1 basename | sed 's/\.py//'); do \
		echo "== $$name"; $(BIN)/python -m benchmarks.$$name --small || exit 1; done

results: setup-dev    ## all figures of docs/results.md, on the real data sets (DATA=folder); goes on with what is not of this revision yet, KEEP=folder within a benchmark too
	$(BIN)/python -m benchmarks.quality.results $(if $(DATA),--data $(DATA)) $(if $(KEEP),--keep $(KEEP)) $(if $(ONLY),--only $(ONLY))

peers:         ## the libraries that we are held against, in environments of their own (.peers/); python -m benchmarks.serving
	$(PYTHON) -m benchmarks.peers.install

docs: setup-dev    ## the documentation as a site in site/
	$(BIN)/zensical build

clean:         ## remove everything that was installed or built
	rm -rf $(VENV) .peers site build dist .pytest_cache .ruff_cache .hypothesis demo
