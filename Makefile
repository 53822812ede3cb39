# The README's two commands, `make demo` and `make test`, set up all they need from a bare checkout with Python 3.11+.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: demo test check format bench chaos pins clean

demo: $(STAMP)
	$(BIN)/immunize demo --out demo

test: check
	$(BIN)/pytest -n 2 --dist worksteal

check: $(STAMP)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(STAMP)
	$(BIN)/immunize bench encoder

# A thousand jobs while workers are killed. More goes wrong with CHAOS="--redis-wipes 3 --store-outages 3 --cancels 20".
chaos: $(STAMP)
	$(BIN)/python -m tests.chaos --jobs 1000 --workers 3 --kills 20 --seed 7 $(CHAOS)

# uv makes the environment: it is fast, and it resolves torch as pinned. It is installed beside it if it is missing.
$(STAMP): pyproject.toml deploy/requirements/dev.txt
	PYTHON="$(PYTHON)" deploy/make-venv "$(VENV)"
	touch $(STAMP)

pins: $(STAMP)
	deploy/make-pins

clean:
	rm -rf $(VENV) demo
