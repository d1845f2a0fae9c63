# make demo | test | check | bench | faults. Each first brings .venv up to date, through constraints.txt.

ifndef PYTHON
PYTHON := $(shell for p in python3.11 python3; do \
    $$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && command -v $$p && break; done)
endif
VENV   := .venv
BIN    := $(VENV)/bin
# Named by content, since dates lie after a clone or a branch switch.
KEY    := $(shell $(PYTHON) -c "import hashlib, pathlib, sys; \
    parts = [pathlib.Path(p).read_bytes() for p in ('pyproject.toml', 'constraints.txt', 'Makefile')]; \
    print(hashlib.sha256(b''.join([*parts, sys.version.encode(), b'$(CURDIR)'])).hexdigest()[:16])" 2>/dev/null)
STAMP  := $(VENV)/.losssearch-$(KEY)
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest
DEMO   := --proxy digits-noisy --controller evolution --start cross_entropy,brier --time 3m

.DEFAULT_GOAL := help
.PHONY: help setup demo test check bench faults chromium clean

help:
	@echo 'make demo      search three minutes for a better loss, audit it, write it to my_loss.py'
	@echo 'make test      the test suite, on two cores'
	@echo 'make check     ruff and mypy'
	@echo 'make bench     the headline numbers'
	@echo 'make faults    the tests that kill workers and drivers'
	@echo 'make chromium  the browser that the page tests use (Debian, as root)'
	@echo 'make clean     remove .venv, caches and built packages'

setup: $(STAMP)

$(STAMP):
	@test -n '$(PYTHON)' || { echo 'No Python 3.11 or newer found. Install one, or say: make PYTHON=/path/to/python'; exit 1; }
	@test -n '$(KEY)' || { echo '$(PYTHON) does not run. Say: make PYTHON=/path/to/python'; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo '$(PYTHON) is older than Python 3.11. Say: make PYTHON=/path/to/python'; exit 1; }
	@version=$$($(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])'); \
	$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null \
	  || { echo "$(PYTHON) cannot make a virtual environment. On Debian or Ubuntu: apt-get install python$$version-venv"; exit 1; }; \
	if ! $(BIN)/python -c "import pip, sys; sys.exit('%d.%d' % sys.version_info[:2] != '$$version')" 2>/dev/null; then \
	  echo "Installing torch, Ray, Optuna and the rest into $(VENV): one to three minutes, about 2 GB, the first time only."; \
	  $(PYTHON) -m venv --clear $(VENV); \
	fi
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev,postgres,frameworks]'
	@rm -f $(VENV)/.losssearch-* && touch $@

demo: setup
	$(BIN)/losssearch run multiclass $(DEMO) --storage sqlite:///losses.db --name demo
	$(BIN)/losssearch audit demo
	$(BIN)/losssearch leaderboard demo
	$(BIN)/losssearch export demo/1 --to my_loss.py --force

test: setup
	$(PYTEST) -n 2 --dist loadfile -m 'not bench and not faults'

check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: setup
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks

faults: setup
	$(PYTEST) -m faults

chromium:
	@if command -v chromium >/dev/null; then :; \
	elif command -v apt-get >/dev/null && [ "$$(id -u)" = 0 ]; then \
	  echo 'Installing chromium, for the tests of the pages.'; \
	  apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends chromium >/dev/null; \
	else \
	  echo 'No chromium here, so the tests of the pages will be skipped. On Debian: sudo apt-get install chromium'; exit 1; \
	fi

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis build dist
	find losssearch workers dashboards search_spaces tests benchmarks examples -name __pycache__ -prune -exec rm -rf {} +
