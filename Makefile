# Every target makes what it needs: a fresh machine with Python 3.11 is enough.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/ready
# A forgotten await, or interfaces whose order is inconsistent, fail the tests.
STRICT := ZOPE_INTERFACE_STRICT_IRO=1 PYTHONWARNINGS=error::RuntimeWarning

.PHONY: run test integration crash soak simulation conformance lint reference bench clean

$(READY): setup.cfg pyproject.toml
	@echo "mailgate: making the virtual environment $(VENV) with $(PYTHON) (once)"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@

run: $(READY)
	@mkdir -p var
	@echo "mailgate: a demonstration gateway; Ctrl-C ends it. In another terminal, try"
	@echo "  $(BIN)/python etc/demo-send.py bob@example.org         taken: look into var/mail/example.org/bob/new/"
	@echo "  $(BIN)/python etc/demo-send.py nobody@example.org      refused: no such recipient"
	@echo "  $(BIN)/python etc/demo-send.py someone@example.com     refused: the gateway is no open relay"
	@echo "  $(BIN)/mailgate why bob@example.org --config etc/demo.toml"
	@echo "  $(BIN)/mailgate queue list --config etc/demo.toml"
	@echo "Inbound is 127.0.0.1:2525, outbound (for loopback only) 127.0.0.1:2587."
	$(BIN)/twistd --nodaemon --pidfile= mailgate --config etc/demo.toml

test: $(READY)
	$(STRICT) $(BIN)/python -m pytest --numprocesses auto --dist worksteal --ignore=tests/integration

# With the real programs: Postfix, Dovecot, swaks, strace (see CONTRIBUTING.md). What is not installed is skipped by name.
integration: $(READY)
	$(STRICT) $(BIN)/python -m pytest --numprocesses auto --dist loadfile tests/integration

# Ends with violence, in memory and of the running daemon, and disks that fail; about ten minutes, or MAILGATE_CRASH=short
# as in `make test` and `make integration`. Some of it needs strace and the superuser.
crash: $(READY)
	MAILGATE_CRASH=$${MAILGATE_CRASH:-long} $(STRICT) $(BIN)/python -m pytest tests/crash tests/integration/test_kill.py \
	  tests/integration/test_durability.py tests/integration/test_disk_full.py tests/integration/test_disk_faults.py

# The daemon at half of what it can do, for ten minutes: nothing grows, nothing is left. ARGS="--minutes 2" in CI.
soak: $(READY)
	$(STRICT) $(BIN)/python -m tests.soak $(ARGS)

# Dialogues of SMTP and LMTP, in a folder with their runner, against a gateway that is started for them.
conformance: $(READY)
	PYTHONPATH=. $(STRICT) $(BIN)/python -m tests.conformance $(CASES)

# A million messages to ten thousand sites on a clock that is turned: makes docs/simulation.md, in a quarter of an hour.
simulation: $(READY)
	$(BIN)/python -m tests.simulation $(ARGS)

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# docs/reference/options.md, from the texts beside the options; the tests fail while it is not current.
reference: $(READY)
	$(BIN)/python docs/generate.py

# The same work through mailgate, Postfix and Haraka, side by side. Options: make bench ARGS="--rounds 5".
bench: $(READY)
	PYTHONPATH=tests/integration $(BIN)/python -m bench $(ARGS)

clean:
	rm -rf $(VENV) build dist var *.egg-info
