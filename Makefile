# make demo    train the first example and look at its run
# make test    format, lint, types, and every test that is quick
# make prove   make test, then the slow tests: 1,000 kills, 20,000 random programs; and a page in Chromium, if found
# make bench   speed and memory against their bounds
# make clean   remove what the others made, except runs/
#
# Each sets up .venv when it is missing or when pyproject.toml or constraints.txt changed.

PYTHON ?= python3
BIN := .venv/bin
PYTEST := $(BIN)/pytest -q -n auto --dist loadfile
PIP := $(BIN)/python -m pip --disable-pip-version-check -qq

.PHONY: demo test prove bench clean
.NOTPARALLEL:

demo: .venv/demo.stamp
	@$(BIN)/learner demo

test: .venv/test.stamp
	$(BIN)/ruff format --check --quiet
	$(BIN)/ruff check --quiet
	$(BIN)/mypy --strict state stages learner
	$(PYTEST)

prove: test
	$(PYTEST) -m "slow or browser"

bench: .venv/test.stamp
	@$(BIN)/python tests/benchmarks/run.py

clean:
	rm -rf .venv build dist *.egg-info .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find learner stages state tests docs -name __pycache__ -type d -prune -exec rm -rf {} +

# demo.stamp and test.stamp stand for the extras of those names in pyproject.toml.
.venv/%.stamp: pyproject.toml constraints.txt | .venv/made
	@echo "Installing staged-learner[$*] into .venv: a minute or two, once."
	@$(PIP) install --constraint constraints.txt --editable '.[$*]'
	@touch $@

.venv/made:
	@$(PYTHON) -m venv .venv
	@touch $@
