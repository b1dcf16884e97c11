# Two commands do everything on a fresh machine: `make quickstart` and `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
SETUP := $(VENV)/.installed
RUN ?= quickstart

.PHONY: quickstart test test-without-ray test-on-ray test-all unit lint docs setup clean

setup: $(SETUP)

# The marker is written last: an interrupted install is started again.
$(SETUP): requirements.lock pyproject.toml
	$(PYTHON) -c 'import sys; assert sys.version_info >= (3, 11), f"Tandem needs Python 3.11 or newer, {sys.executable} is {sys.version.split()[0]}; set PYTHON=..."'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	touch $(SETUP)

quickstart: $(SETUP)
	$(BIN)/tandem train jobs/configs/quickstart.yaml name=$(RUN)

# Both parts at once: those on Ray are one after the other, and mostly wait for processes.
test: $(SETUP)
	$(MAKE) --jobs=2 --keep-going test-without-ray test-on-ray

test-without-ray: $(SETUP)
	$(BIN)/python -m pytest tests -m "not long and not ray and not real" -n 2 --durations=20

test-on-ray: $(SETUP)
	$(BIN)/python -m pytest tests/integration tests/chaos -m "ray and not long" --durations=20

test-all: $(SETUP)
	$(BIN)/python -m pytest tests

unit: $(SETUP)
	$(BIN)/python -m pytest tests/unit -n 2

lint: $(SETUP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: $(SETUP)
	$(BIN)/python -m orchestrator.settings.reference docs/config.md

clean:
	rm -rf $(VENV) build *.egg-info
