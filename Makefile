# Every command sets up what it needs: the project's own .venv with locked versions.
PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin
UV := $(RUN)/uv pip
WORKERS ?= 2

.PHONY: help setup demo test test-long check format proto lock bench bench-debt bench-usage native test-native client-wheel clean

help:
	@echo "make demo    run the flights example end to end"
	@echo "make test    pass the whole test suite"
	@echo "make check   ruff, mypy, docstrings, import contract"
	@echo "make bench   measure the claims beside the peers"
	@echo "make bench-debt  count how often verdicts on feature debt are wrong"
	@echo "make native  build and install the fast transport (needs cargo)"
	@echo "make client-wheel  build the client alone into dist/"
	@echo "make proto   generate featurestore/v1 from proto/"
	@echo "make lock    resolve requirements.lock anew"

setup: $(VENV)/.ready

# A folder left half made is made anew; the stamp is written last.
$(VENV)/.ready: requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Python 3.11 or newer is needed; $(PYTHON) is `$(PYTHON) --version`. Say make PYTHON=python3.11 ..." >&2; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || \
		{ echo "Python's venv module is missing: run 'apt-get install python3-venv' first." >&2; exit 1; }
	@test -x $(RUN)/uv || { echo "Setting up $(VENV) ..." >&2; $(PYTHON) -m venv --clear $(VENV) && \
		$(RUN)/python -m pip install --quiet --disable-pip-version-check uv==0.13.9; }
	@$(UV) install --quiet --compile-bytecode --python $(RUN)/python --require-hashes -r requirements.lock
	@$(UV) install --quiet --python $(RUN)/python --no-deps --no-build-isolation -e .
	@$(RUN)/python -m compileall -q featurestore lineage
	@$(RUN)/python -m featurestore.warmup
	@touch $@

demo: setup
	@$(RUN)/featurestore demo

test: setup
	@tests/components.sh
	$(RUN)/pytest -n $(WORKERS) --dist worksteal -m "not slow" -q

test-long: setup
	$(RUN)/pytest -m slow -q

check: setup
	$(RUN)/ruff check .
	$(RUN)/ruff format --check .
	$(RUN)/mypy
	$(RUN)/lint-imports

format: setup
	$(RUN)/ruff check --fix .
	$(RUN)/ruff format .

proto: setup
	$(RUN)/python -m grpc_tools.protoc -I proto --python_out=. --pyi_out=. proto/featurestore/v1/*.proto

lock: setup
	$(UV) compile --quiet --generate-hashes --no-emit-index-url --no-annotate --no-header --python-version 3.11 \
		--all-extras pyproject.toml -o requirements.lock

bench: setup
	$(RUN)/python benchmarks/run.py

# How often the verdicts on feature debt are wrong: 1,000 runs of each case, and 200 of boosted trees.
bench-debt: setup
	$(RUN)/python benchmarks/feature_debt/run.py --trees 200

# 100 million reads: counted, folded to days, and reported on.
bench-usage: setup
	$(RUN)/python -m benchmarks.usage_fold

# Built with the locked crates, and installed into .venv; nothing needs it.
native: setup
	@command -v cargo >/dev/null || { echo "cargo is missing: install Rust 1.88 or newer. Everything works without the native transport." >&2; exit 1; }
	$(RUN)/uv tool run maturin==1.16.0 build --quiet --release --locked -m native/Cargo.toml -i $(RUN)/python -o native/target/wheels
	@$(UV) install --quiet --python $(RUN)/python --no-deps --reinstall native/target/wheels/featurestore_native-*.whl

test-native: native
	cd native && PYO3_PYTHON=$(CURDIR)/$(RUN)/python cargo test --quiet --locked

client-wheel: setup
	$(RUN)/uv build --quiet --wheel --no-build-isolation --python $(RUN)/python --out-dir dist packaging/client

clean:
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis demo-project
