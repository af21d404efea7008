# One verb a target. Scripts and people rely on these names.
export UV_PYTHON_PREFERENCE ?= only-system
SHELL := /bin/bash
UV := uv
SYNC := $(UV) sync --frozen --all-packages --extra cpu --extra train --group dev --quiet
RUN := $(UV) run --frozen --no-sync
CLUSTER ?=
REGISTRY ?=
CLAIM_API ?= nodeclaim
ONLY_SERVING ?=
ENVIRONMENT_GIB := 8

.DEFAULT_GOAL := help
.PHONY: help uv room sync run down test test-compose test-fast lint types imports format control-plane control-plane-down cluster cluster-down images sbom bench

help: ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  %-20s %s\n", $$1, $$2}'

uv:
	@command -v $(UV) >/dev/null || python3 -m pip install --quiet --root-user-action=ignore uv

room:
	@[ -e .venv ] || df -Pk . | awk '\
	  NR == 2 && $$4 < $(ENVIRONMENT_GIB) * 2^20 { \
	    printf "the Python environment takes $(ENVIRONMENT_GIB) GiB and %d GiB are free here: ", $$4 / 2^20; \
	    print "nothing was started. `make run` takes about 45 GB in all."; exit 1 }' >&2

sync: room uv ## the Python environment (.venv) from uv.lock
	@$(SYNC)

run: sync ## the main job: cluster, operator, model, a printed answer, then a tuned adapter; leaves it running
	@$(RUN) kaito-local run $(if $(CLUSTER),--cluster $(CLUSTER)) $(if $(REGISTRY),--registry $(REGISTRY)) --claim-api $(CLAIM_API) $(if $(ONLY_SERVING),--only-serving)

down: sync ## removes everything that make run, cluster and control-plane started
	@$(RUN) kaito-local down

test: sync lint types imports ## the whole suite, what CI calls
	@$(RUN) kaito-local tools
	@$(RUN) pytest -q

test-compose: sync ## the integration tests against containers (docker-compose.test.yaml); needs Docker and its Compose
	@$(RUN) kaito-local compose test

test-fast: sync ## the unit part, under a minute
	@$(RUN) pytest -q -n auto --maxprocesses 4 -m "not integration and not engine and not e2e and not slow"

lint: sync ## ruff
	@$(RUN) ruff check . && $(RUN) ruff format --check .

format: sync ## ruff, writing
	@$(RUN) ruff check --fix . ; $(RUN) ruff format .

types: sync ## mypy, strict
	@$(RUN) mypy

imports: sync ## which package may import which
	@$(RUN) lint-imports

control-plane: sync ## etcd + kube-apiserver with the CRDs; the last line is the KUBECONFIG path
	@$(RUN) kaito-local control-plane up

control-plane-down: sync ## ends it
	@$(RUN) kaito-local control-plane down

cluster: sync ## the full local cluster; the last line is the KUBECONFIG path
	@$(RUN) kaito-local cluster up

cluster-down: sync ## ends it
	@$(RUN) kaito-local cluster down

images: sync ## every service's image, for the local registry
	@$(RUN) kaito-local images

sbom: sync ## build/sbom/IMAGE.cdx.json: the Python packages in each image, from uv.lock and the Dockerfiles (CycloneDX 1.5)
	@$(RUN) python tools/write_sboms.py

bench: sync ## every benchmark, a table at the end
	@$(RUN) python -m benchmarks
