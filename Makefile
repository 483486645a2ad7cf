# make demo   the demo shop on http://localhost:6543
# make test   everything that has to hold: lint, types, tests on real servers, docs
# make quick  the tests for the work between two thoughts; says what it leaves out
# All install what they need into .venv; no other step.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Half of what it takes to collect the tests is compiling them.
export PYTHONDONTWRITEBYTECODE :=
SOURCES := $(shell find pyramid_altsession -type f -not -name '*.pyc') setup.cfg pyproject.toml

.PHONY: demo test quick lint types unit docs faults lowest matrix bench bench-check package clean

# Two processes: the shop, and its live page. Ctrl-C ends both.
demo: $(VENV)/demo.stamp
	@$(BIN)/python -m pyramid_altsession.demo.live development.ini & live=$$!; \
	trap 'kill $$live' EXIT; trap 'exit 130' INT TERM; $(BIN)/pserve development.ini

# Two at a time: the tests leave a processor idle here and there, and the rest needs only one.
test: $(VENV)/test.stamp $(VENV)/docs.stamp
	$(MAKE) --jobs 2 lint types unit bench-check docs package

lint: $(VENV)/test.stamp
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/test.stamp
	$(BIN)/mypy
	$(BIN)/mypy tests/types

# The tests import the installed wheel, not the checkout (pytest leaves this folder off the path).
unit: $(VENV)/test.stamp
	$(BIN)/pytest --numprocesses auto --dist worksteal --cov --cov-report=term

# Without what repeats itself thousands of times, what starts processes of its own, what is slow, and
# what is there a second time: on another store, or under pyramid_retry.
quick: $(VENV)/test.stamp
	$(BIN)/pytest --numprocesses auto --dist worksteal -m "not (volume or process or slow or repeated)"

docs: $(VENV)/docs.stamp
	$(BIN)/sphinx-build -W --keep-going -q -b html docs docs/_build/html

# Faults of real servers, sentinels and clusters under load: what each costs, as a table.
faults: $(VENV)/test.stamp
	cd tests/support && ../../$(BIN)/python outages.py
	cd tests/support && ../../$(BIN)/python crowd.py
	cd tests/support && ../../$(BIN)/python soak.py

# The lowest versions that setup.cfg allows, in a virtual environment of their own.
lowest: $(VENV)/wheel.stamp
	$(PYTHON) -m venv --clear $(VENV)-lowest
	$(VENV)-lowest/bin/pip install --quiet --constraint tests/lowest.txt "$$(ls dist/*.whl)[test]"
	$(VENV)-lowest/bin/pytest

# The contract suite on Valkey 8.1 and Redis 8, and the quick and slow tests on each Python, Pyramid and
# redis-py that are supported. Takes most of an hour. PYTHONS="python3.12 /opt/python3.13" names others.
matrix: $(VENV)/test.stamp
	$(BIN)/python tests/support/matrix.py

# What docs/performance.rst shows, in less than ten minutes on a quiet machine. Under load it
# measures with Debian's wrk.
bench: $(VENV)/bench.stamp
	$(BIN)/python benchmarks/run.py
	$(BIN)/python benchmarks/prefetch.py
	$(BIN)/python benchmarks/script.py
	$(BIN)/python benchmarks/cluster.py

# What would be released: the archive holds every file, and its page can be rendered.
package: $(VENV)/test.stamp
	$(BIN)/check-manifest --no-build-isolation
	$(BIN)/python -m build --no-isolation --outdir build/release . >/dev/null
	$(BIN)/twine check --strict build/release/*

bench-check: $(VENV)/test.stamp
	$(BIN)/python benchmarks/calls.py

$(BIN)/pip:
	$(PYTHON) -m venv $(VENV)

$(VENV)/wheel.stamp: $(BIN)/pip $(SOURCES) README.rst CHANGES.rst
	rm -rf build dist
	$(BIN)/pip wheel --quiet --no-deps --wheel-dir dist .
	touch $@

$(VENV)/package.stamp: $(VENV)/wheel.stamp
	$(BIN)/pip install --quiet --force-reinstall --no-deps dist/*.whl
	touch $@

$(VENV)/%.stamp: $(VENV)/package.stamp
	$(BIN)/pip install --quiet "$$(ls dist/*.whl)[$*]"
	touch $@

clean:
	rm -rf $(VENV) $(VENV)-lowest $(VENV)-matrix build dist docs/_build *.egg-info .coverage .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
