# Every target does its own set-up: a fresh clone needs only make and bash.
#
#   make demo      a short tour: two engines, a failing rail, what TENT does about it
#   make test      the whole test suite against the built package
#   make test-long the same with the tests that take too long for every change
#   make test-rdma the rdma transport in a machine of its own with software RoCE; SKIPPED where it cannot be had
#   make lint      ruff, mypy, clang-format, clang-tidy
#   make sanitize  native tests under address and undefined-behaviour, then thread sanitizer
#   make chaos     100,000 drawn worlds and faults on the simulated fabric, every promise checked
#   make bench     the benchmarks
#   make bench-rdma  those of rdma, on a machine with devices or in the rig
#   make build     the package in .venv; `make clean` removes everything made here
#
# The package is installed, not linked, into .venv: tests see what a user gets. A changed source is installed anew.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DELETE_ON_ERROR:
.NOTPARALLEL:
MAKEFLAGS += --no-print-directory

bin := .venv/bin
jobs ?= $(shell nproc 2>/dev/null || echo 2)
# Folders too: their time changes when a file is added or removed.
sources := $(shell find tent csrc plugins -not -name '*.pyc' -not -name __pycache__) \
    pyproject.toml CMakeLists.txt README.md LICENSE
c_sources := $(shell find csrc plugins tests bench examples \( -name '*.cc' -o -name '*.c' -o -name '*.h' \))
cpp := $(filter csrc/% plugins/%,$(filter %.cc %.c,$(c_sources)))
# A hung test is ended by pytest-timeout; this ends a hung pytest.
limit := timeout --kill-after=10 1200

.PHONY: build demo test test-long test-rdma chaos lint format sanitize bench bench-rdma clean
build: .venv/package.stamp
	@:

# pip's own cache of wheels is keyed by version, which does not change with a source: hence no cache.
.venv/package.stamp: .venv/tools.stamp $(sources)
	@echo "make: building and installing the package"
	@CMAKE_BUILD_PARALLEL_LEVEL=$(jobs) $(bin)/python -m pip install --quiet --disable-pip-version-check \
	    --no-deps --no-build-isolation --no-index --no-cache-dir --force-reinstall \
	    --config-settings=build-dir=build/wheel .
	@touch $@

.venv/tools.stamp: pyproject.toml .ci/setup
	@.ci/setup
	@touch $@

demo: build
	@$(bin)/tent demo

test: build
	@CMAKE_BUILD_PARALLEL_LEVEL=$(jobs) $(limit) $(bin)/pytest tests $(PYTEST_ARGS)

# Fetches QEMU, a kernel and rdma-core as packages of the distribution, as root, when they are missing (tests/rdma/rig).
# The guest is ended after 15 minutes at the latest.
test-rdma: build
	@$(bin)/python tests/rdma/rig test $(PYTEST_ARGS)

test-long: export TENT_TEST_LONG := 1
test-long: test

chaos: build
	@$(bin)/tent chaos --sim --seeds 100000 --jobs $(jobs) $(CHAOS_ARGS)

# clang-tidy needs the compile commands of a configured build, not its outputs.
lint: .venv/tools.stamp
	@echo "lint: ruff, mypy"
	@$(bin)/ruff check .
	@$(bin)/ruff format --check --quiet . || { echo "lint: run make format"; exit 1; }
	@$(bin)/mypy
	@echo "lint: clang-format"
	@$(bin)/clang-format --dry-run --Werror $(c_sources) || { echo "lint: run make format"; exit 1; }
	@echo "lint: clang-tidy"
	@$(bin)/cmake -G Ninja -DCMAKE_MAKE_PROGRAM=$(CURDIR)/$(bin)/ninja -S . -B build/tidy \
	    -DTENT_NATIVE_TESTS=ON -DTENT_CHECKED=ON >/dev/null
	@printf '%s\n' $(cpp) | xargs -P $(jobs) -n 4 $(bin)/clang-tidy --quiet -p build/tidy 2>/dev/null
	@echo "lint: clean"

format: .venv/tools.stamp
	@$(bin)/ruff format --quiet .
	@$(bin)/clang-format -i $(c_sources)

# The programs are C++ only: a sanitizer's runtime and the interpreter do not share a process well.
sanitize: build
	@echo "sanitize: address and undefined behaviour"
	@TENT_TEST_SANITIZE=address $(limit) $(bin)/pytest tests/native tests/fuzz $(PYTEST_ARGS)
	@echo "sanitize: threads"
	@TENT_TEST_SANITIZE=thread $(limit) $(bin)/pytest tests/native $(PYTEST_ARGS)

bench: build
	@$(bin)/python bench $(BENCH_ARGS)

bench-rdma: build
	@$(bin)/python bench --transport rdma $(BENCH_ARGS)

clean:
	rm -rf .venv build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
