# One command per duty. Each sets up what it needs in .venv; nothing is installed elsewhere.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
REPLAY := .venv-replay

.PHONY: test lint bench docs replay mutation clean venv

test: venv lint ## everything: lint, types, and all tests on every Python 3.11+ of this machine
	$(BIN)/python tools/test_all.py

lint: venv ## style, types from the inside (mypy strict, pyright), types from a user's side
	$(BIN)/ruff check src tests bench tools
	$(BIN)/ruff format --check src tests bench tools
	$(BIN)/mypy
	$(BIN)/pyright

bench: venv ## ratios against named floors and peers, in one run
	$(BIN)/python -m pip install -q -r requirements/bench.txt
	$(BIN)/python bench/run.py

docs: venv ## run every example of the documentation
	$(BIN)/python -m pytest -q tests/test_docs.py

replay: $(REPLAY)/.ready ## the incidents, without and with holdfast; ARGS="1 3 --seed 2" hands things on
	@$(REPLAY)/bin/holdfast replay $(ARGS)

# Without the tools of tests and lint: whoever only wants to see the replay waits for less.
$(REPLAY)/.ready: pyproject.toml tools/make_venv.sh
	PYTHON="$(PYTHON)" sh tools/make_venv.sh $(REPLAY)
	$(REPLAY)/bin/python -m pip install -q -e '.[replay]'
	touch $@

mutation: venv ## mutate floors 1-3 and report which mutants the tests do not notice
	$(BIN)/python tools/mutation.py

venv: $(VENV)/.ready

$(VENV)/.ready: pyproject.toml requirements/core.txt requirements/test.txt requirements/lint.txt tools/make_venv.sh
	PYTHON="$(PYTHON)" sh tools/make_venv.sh $(VENV)
	$(BIN)/python -m pip install -q -e '.[all]' -r requirements/test.txt -r requirements/lint.txt
	touch $@

clean:
	rm -rf $(VENV) $(REPLAY) .mypy_cache .pytest_cache .ruff_cache .hypothesis mutants
