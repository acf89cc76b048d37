# Two commands do all: `make demo` and `make test`; `make fast` is a part of the latter. uv sets up .venv if it is there, else venv and pip.

PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
UV := $(shell command -v uv 2>/dev/null)
BIN := .venv/bin

ifneq ($(UV),)
INSTALL = uv pip install --quiet --compile-bytecode --python $(BIN)/python
INSTALL_DEV = $(INSTALL) --torch-backend=cpu
else
# Twice quiet: errors alone, for the warnings are about the configuration of the machine's own pip
INSTALL = $(BIN)/python -m pip install --quiet --quiet --disable-pip-version-check
INSTALL_DEV = $(INSTALL)
endif

.PHONY: demo test fast check coverage faults soak fuzz wheel format proto clean

# The tests start hundreds of processes: each would compile the project anew without a cache of bytecode
unexport PYTHONDONTWRITEBYTECODE

# Four at a time, also on two cores: tests of clusters wait for more than half of their time. Their processes share the
# cores with each other: a test that failed is tried twice more, and listed
PYTEST = -n 4 --dist loadscope --no-loadscope-reorder --reruns 2 -rR

demo: .venv/.runtime  ## three nodes on this machine answer a prompt; on a terminal, then chat. PROMPT="..." asks that alone
	@$(BIN)/moe-cluster demo $(if $(PROMPT),--prompt "$(PROMPT)")

test: check  ## all checks and all tests
	$(BIN)/python -m pytest $(PYTEST)

fast: check  ## all checks, and the tests that start no processes and compare with no other library
	$(BIN)/python -m pytest $(PYTEST) -m "not slow and not oracle"

coverage: .venv/.dev  ## all tests, and which lines and branches they do not run, by file
	$(BIN)/coverage erase
	$(BIN)/coverage run -m pytest $(PYTEST)
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage report

faults: .venv/.dev  ## all rows of the fault suite; writes tests/faults/README.md
	$(BIN)/python -m tests.faults

soak: .venv/.dev  ## CYCLES (default 100) of random faults over a running cluster, SEED (default: a new one, which is printed)
	$(BIN)/python -m tests.faults.soak --cycles $(or $(CYCLES),100) $(if $(SEED),--seed $(SEED))

fuzz: .venv/.dev  ## damaged input for every parser of outside bytes, SECONDS (default 30) for each
	$(BIN)/python -m tests.fuzz --seconds $(or $(SECONDS),30)

wheel: .venv/.runtime  ## build the wheel, install it in an environment of its own, and try its commands
	.ci/wheel

check: .venv/.dev  ## ruff, mypy, import-linter
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: .venv/.dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

.venv/bin/python:
	@if [ -z "$(PYTHON)" ]; then echo "moe-cluster needs Python 3.11 or newer; found $$(python3 --version 2>&1)" >&2; exit 1; fi
	@if [ -n "$(UV)" ]; then uv venv --quiet --allow-existing --python "$(PYTHON)" .venv; else "$(PYTHON)" -m venv .venv; fi

.venv/.runtime: .venv/bin/python pyproject.toml
	@echo "setting up .venv: this takes a minute or two, once"
	@$(INSTALL) -e .
	@touch $@

.venv/.dev: .venv/bin/python pyproject.toml
	@if [ "$$(uname)" = Linux ] && ! command -v g++ >/dev/null; then \
		echo "make test needs g++ on Linux: MLX compiles mlx-lm's fused kernels with it (Debian: apt install g++)" >&2; exit 1; fi
	@echo "setting up .venv with the development tools: this takes some minutes, once"
	@$(INSTALL_DEV) -e '.[dev]'
	@touch $@ .venv/.runtime

proto: .venv/.dev  ## generate cluster/wire from proto/
	$(BIN)/python -m grpc_tools.protoc -Icluster/wire=proto --python_out=. --pyi_out=. --grpc_python_out=. \
		$(patsubst proto/%,cluster/wire/%,$(wildcard proto/*.proto))

clean:
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache
