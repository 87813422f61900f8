# corral's targets. `make help` lists them.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

PYTHON ?= python3
UV_VERSION := 0.13.9
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
# Which cluster: auto, embedded, kind or current (the current context of kubectl).
CLUSTER ?= auto
export CLUSTER
# The clusters of the demo and of the tests stand side by side.
NAME ?= corral
TEST_NAME := test
# How much faster rules run in their test: a minute in a second.
PACE := 0.016666667
KUBECONFIG_FILE = $(CURDIR)/.cluster/$(if $(filter-out corral,$(NAME)),$(NAME)/)kubeconfig

.PHONY: help
help: ## This list
	@awk -F':.*## ' '/^[a-z-]+:.*## / {printf "  %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(READY): requirements/dev.txt pyproject.toml
	@echo "preparing $(VENV)"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@test -x $(BIN)/uv || $(BIN)/python -m pip install --quiet --disable-pip-version-check uv==$(UV_VERSION)
	@VIRTUAL_ENV=$(VENV) $(BIN)/uv pip sync --quiet requirements/dev.txt
	@VIRTUAL_ENV=$(VENV) $(BIN)/uv pip install --quiet --no-deps --no-build-isolation --editable .
	@touch $@

.PHONY: venv
venv: $(READY) ## The virtual environment, from the lock files

.PHONY: lock
lock: $(READY) ## Renew the lock files in requirements/
	$(BIN)/uv pip compile --quiet --upgrade --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-emit-find-links pyproject.toml -o requirements/runtime.txt
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-emit-find-links --constraint requirements/runtime.txt --group dev pyproject.toml -o requirements/dev.txt

.PHONY: generate
generate: $(READY) ## CRDs, references in docs/, rules and dashboards, from the code
	$(BIN)/python -m corral.api.crd
	$(BIN)/python docs/reference/generate.py
	$(BIN)/python -m prometheus
	$(BIN)/python -m grafana

.PHONY: format
format: $(READY) ## Format and mend what can be mended
	$(BIN)/ruff check --fix --quiet .
	$(BIN)/ruff format --quiet .

.PHONY: check
check: $(READY) ## Lint, types, layers, generated files
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m corral.api.crd --check
	$(BIN)/python docs/reference/generate.py --check
	$(BIN)/python -m prometheus --check
	$(BIN)/python -m grafana --check

.PHONY: unit
unit: $(READY) ## The tests that need no cluster
	$(BIN)/pytest --numprocesses=2 --dist=loadgroup tests/unit tests/cluster_tool tests/explore

.PHONY: test
test: check unit ## Everything: checks, unit tests, and the tests on real clusters
	$(MAKE) cluster NAME=$(TEST_NAME)
	$(MAKE) cluster NAME=$(TEST_NAME)-apart
	@status=0; tests/cluster/run.sh $(TEST_NAME) $(PYTEST_ARGS) || status=$$?; \
	$(if $(KEEP),echo "kept: make cluster-down NAME=$(TEST_NAME)",$(MAKE) cluster-down NAME=$(TEST_NAME); $(MAKE) cluster-down NAME=$(TEST_NAME)-apart); \
	exit $$status

.PHONY: faults
faults: $(READY) ## The faults of docs/design/faults.md at full length, on a real cluster
	$(MAKE) cluster NAME=$(TEST_NAME)
	@status=0; KUBECONFIG=$(CURDIR)/.cluster/$(TEST_NAME)/kubeconfig CORRAL_HASTE=1 \
	$(BIN)/pytest --timeout=1800 tests/cluster/test_fault*.py tests/cluster/test_ledger.py tests/cluster/test_tracing.py $(PYTEST_ARGS) || status=$$?; \
	$(MAKE) cluster-down NAME=$(TEST_NAME); exit $$status

# Tests on a cluster of their own, with something added to it: $(call with,NAME,ADDED,MODULE).
# They are too long for `make test`, which skips them.
define with
	$(MAKE) cluster NAME=$(1)
	@status=0; $(BIN)/python -m cluster $(2) --name $(1) && \
	KUBECONFIG=$(CURDIR)/.cluster/$(1)/kubeconfig $(BIN)/pytest tests/cluster/$(3) $(PYTEST_ARGS) || status=$$?; \
	$(MAKE) cluster-down NAME=$(1); exit $$status
endef

.PHONY: hpa-test
hpa-test: $(READY) ## An HPA and a real metrics-server scale a pool (once five minutes, then three)
	$(call with,hpa,add-metrics,test_hpa.py)

.PHONY: node-test
node-test: $(READY) ## A node with workers on it becomes unreachable, and comes back (four minutes)
	$(call with,nodes,add-node,test_lost_nodes.py)

.PHONY: alerts-test
alerts-test: $(READY) ## Real faults make alerts fire and resolve, in a real Prometheus (ten minutes)
	$(call with,alerts,observe --pace $(PACE),test_alerts.py)

.PHONY: dashboards-test
dashboards-test: $(READY) ## Every query of the dashboards returns data, from a real Prometheus (two minutes)
	$(call with,dashboards,observe --pace $(PACE),test_dashboards.py)

.PHONY: explore
explore: $(READY) ## Kill the operator at every call it makes, in process: .explore/report.json
	@$(BIN)/python -m tests.explore $(EXPLORE_ARGS)

.PHONY: bench
bench: $(READY) ## Measure what an operator gets done and what it costs: .bench/report.json
	@$(MAKE) --no-print-directory cluster
	@KUBECONFIG=$(KUBECONFIG_FILE) $(BIN)/python -m tests.load $(BENCH_ARGS)

.PHONY: image
image: $(READY) ## Build the image from the Dockerfile
	$(BIN)/python -m cluster image build

.PHONY: cluster
cluster: $(READY) ## A cluster with corral installed (CLUSTER=auto|embedded|kind|current, NAME=corral)
	@$(BIN)/python -m cluster up --name $(NAME)
	@$(if $(filter current,$(CLUSTER)),,$(BIN)/python -m cluster image load --name $(NAME))
	@$(BIN)/python -m cluster install --name $(NAME)

.PHONY: cluster-down
cluster-down: $(READY) ## Take the cluster down; nothing of it is left
	@$(BIN)/python -m cluster down --name $(NAME)

.PHONY: observe
observe: $(READY) ## Prometheus, Alertmanager, a trace store beside the cluster (embedded only)
	@$(MAKE) --no-print-directory cluster
	@$(BIN)/python -m cluster observe --name $(NAME)

.PHONY: load
load: $(READY) ## A team of agents at work on that cluster, for its dashboards (LOAD_ARGS=--minutes 10)
	@KUBECONFIG=$(KUBECONFIG_FILE) $(BIN)/python -m tests.cluster.load $(LOAD_ARGS)

.PHONY: run
run: $(READY) ## Run the operator from the source tree against the cluster, as its own account
	@$(BIN)/python -m cluster run --name $(NAME)

.PHONY: demo
demo: $(READY) ## A team of agents from start to end, on a real cluster
	@$(MAKE) --no-print-directory cluster
	@$(BIN)/python -m cluster demo --name $(NAME)
