# Every target works from a fresh clone with Python 3.11 to 3.13, make and gcc.
PYTHON ?= $(firstword $(foreach v,3.11 3.12 3.13,$(shell command -v python$(v))) python3)
VENV := .venv
BIN := $(VENV)/bin
DEMO := $(CURDIR)/demo
HEADLESS := opencv-python-headless
UNIT := $(BIN)/pytest --numprocesses auto --dist loadfile -m "not gpu and not ray and not slow and not ui"
# Ray's socket paths must stay short, and nothing is to be sent anywhere.
export RAY_USAGE_STATS_ENABLED := 0

.DEFAULT_GOAL := help
.PHONY: help setup demo ui check fix test test-unit test-numerics test-ray test-machines test-ui browser clean

help: ## List the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

setup: $(VENV)/.installed ## Make the virtual environment with the pinned packages

# OpenCV comes twice, because two dependencies name different builds of it; the headless one, written last, wins
# and needs no system library.
$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	VIRTUAL_ENV=$(VENV) $(BIN)/uv pip install --quiet --compile-bytecode --constraint constraints.txt --editable '.[ui,app,dev]'
	VIRTUAL_ENV=$(VENV) $(BIN)/uv pip install --quiet --constraint constraints.txt --no-deps --reinstall-package $(HEADLESS) $(HEADLESS)
	@touch $@

demo: setup ## Film -> shards -> tiny STIV in three stages -> sampled videos (about 7 minutes on 2 cores)
	$(BIN)/stiv demo --home demo

# Beside Dagster, for the links in it, the reports (3001) and TensorBoard (6006); they end with it. The limit of the pool
# is set by name, because Dagster starts all runs that it finds queued before it has noted a default one.
ui: setup ## Open the Dagster UI on 127.0.0.1:3000 over the same folders as the demo
	@mkdir -p $(DEMO)/dagster $(DEMO)/sources $(DEMO)/runs
	@cp orchestration/dagster.yaml $(DEMO)/dagster/dagster.yaml
	@DAGSTER_HOME=$(DEMO)/dagster $(BIN)/dagster instance concurrency set ray 1 >/dev/null
	@trap 'kill $$reports $$curves 2>/dev/null' EXIT; trap 'exit 130' INT; trap 'exit 143' TERM; \
	  $(BIN)/python -m orchestration.file_server $(DEMO) --port 3001 & reports=$$!; \
	  $(BIN)/tensorboard --logdir $(DEMO)/runs --host 127.0.0.1 --port 6006 >/dev/null 2>&1 & curves=$$!; \
	  DAGSTER_HOME=$(DEMO)/dagster STIV_HOME=$(DEMO) \
	  STIV_FILES_URL=http://127.0.0.1:3001 STIV_TENSORBOARD_URL=http://127.0.0.1:6006 \
	  $(BIN)/dagster dev -m orchestration.definitions -h 127.0.0.1 -p 3000

check: setup ## Format, lint, strict types, import contracts
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright
	$(BIN)/lint-imports

fix: setup ## Format and mend what can be mended by itself
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

test: setup browser ## All tests (CI runs this)
	$(UNIT)
	$(BIN)/pytest --durations 30 -m "(gpu or ray or slow or ui) and not machines"

test-unit: setup ## The tests that need neither Ray nor a browser
	$(UNIT)

test-numerics: setup ## The proofs of docs/fidelity.md, on the CPU
	$(BIN)/pytest tests/numerics

test-ray: setup ## The tests that start a local Ray
	$(BIN)/pytest -m "ray and not ui and not machines"

test-machines: setup ## The test in which machines join and leave a run; minutes long, so not among all tests
	$(BIN)/pytest -m machines

test-ui: setup browser ## The tests that drive the Dagster UI and the app in Chromium
	$(BIN)/pytest -m ui

browser: ## Install Chromium for the UI tests, where apt-get and root are at hand
	@{ command -v chromium && command -v chromedriver; } >/dev/null 2>&1 || \
	  { [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && \
	    apt-get update -qq && apt-get install -y -qq --no-install-recommends chromium chromium-driver >/dev/null; } || \
	  echo "no Chromium and no way to install it: the UI tests will be skipped"

clean: ## Remove the environment and what the demo made; your own videos and runs stay
	rm -rf $(VENV) demo/sources/samples demo/datasets/samples demo/runs/demo_tiny
