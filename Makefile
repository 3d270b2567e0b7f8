# Every target makes what it needs: a fresh machine with Python 3.11 is enough.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/ready

.PHONY: test lint clean

$(READY): setup.cfg pyproject.toml
	@echo "mailgate: making the virtual environment $(VENV) with $(PYTHON) (once)"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@

test: $(READY)
	ZOPE_INTERFACE_STRICT_IRO=1 PYTHONWARNINGS=error::RuntimeWarning $(BIN)/python -m pytest

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

clean:
	rm -rf $(VENV) build dist *.egg-info
