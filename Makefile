# Two commands: `make run` and `make test`. Each installs its dependencies into .venv (and uv into .tools, if it is missing).
#
# TFX 1.21 (Python 3.11) needs glibc 2.39 or newer. On older systems, TFX 1.16 (Python 3.10) is the newest release that loads.

GLIBC := $(shell getconf GNU_LIBC_VERSION | cut -d' ' -f2)
MODERN := $(shell printf '2.39\n$(GLIBC)\n' | sort -VC && echo yes)
export UV_PYTHON := $(if $(MODERN),3.11,3.10)
TRAIN := $(if $(MODERN),TFX 1.21 on Python 3.11,TFX 1.16 on Python 3.10)
# A run has many processes. Without stored bytecode, each would compile its imports again, and importing TFX would take twice as long.
unexport PYTHONDONTWRITEBYTECODE

UV_VERSION := 0.13.9
UV := $(or $(shell command -v uv),.tools/bin/uv)
RUN := $(UV) run --locked
CONFIG := configs/digits.yaml
DATA := data/digits
KUSTOMIZE_VERSION := v5.8.1
VALE_VERSION := v3.21.0
KFP_VERSION := 2.17.0
# A checkout of that release; by default it is cloned.
KFP_SOURCE ?= $(CURDIR)/.tools/kubeflow-pipelines
# Flink's jars, installed from PyPI.
FLINK_RELEASE := 1.20
FLINK ?= $(CURDIR)/.tools/flink-$(FLINK_RELEASE).5/pyflink
# Beam's job server for Flink; Maven downloads it if this is empty.
JOB_SERVER ?=
# The container engine: docker or podman.
ENGINE ?= docker
BENCHMARKS := synthesis reading fit_overhead latency start_up whole_run

.PHONY: help run test test-fast test-long coverage docs test-java test-clients test-kfp test-manifests test-image test-flink job-server flink-up flink-down flink-bench check prose bench install

help:  ## list these targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

run: $(DATA)/span-000001/manifest.json  ## draw pictures once and run the whole pipeline
	$(RUN) captcha-pipeline run --config $(CONFIG)

# Two test files at a time, because each takes up to 3 GB. The slow files run first (tests/conftest.py). They have few tests, so xdist
# would run them last.
PYTEST := pytest -n 2 --dist loadfile --no-loadscope-reorder
test: install  ## run the tests, except the long ones: ten minutes
	$(RUN) $(PYTEST) -m "not long"

test-fast: install  ## run the tests that need neither TFX runs nor fits: a minute and a half
	$(RUN) $(PYTEST) -m "not slow and not long"

test-long: install  ## run the long tests: runs that are killed, repeated or distributed
	$(RUN) $(PYTEST) -m long

# Includes the processes that tests start.
coverage: install  ## run all tests and list the lines that no test runs
	$(RUN) coverage run -m $(PYTEST)
	$(RUN) coverage combine --quiet
	$(RUN) coverage report

docs: install  ## build the documentation as a site, in site/
	$(RUN) python docs/reference.py
	NO_MKDOCS_2_WARNING=true $(RUN) --group docs mkdocs build --quiet

# Tests an exported model with TensorFlow for Java. Needs a JDK (11 or newer) and Maven; downloads 170 MB the first time.
test-java: install .tools/java/classpath  ## read an exported model with TensorFlow for Java
	JAVA_READER=$(CURDIR)/.tools/java $(RUN) pytest tests/serving/test_java.py

# Reads with the server through KServe's and Triton's clients, and one that is generated from its description.
test-clients: install .tools/clients  ## read with clients that others wrote
	CLIENTS=$(CURDIR)/.tools/clients $(RUN) pytest tests/server/test_clients.py

.tools/clients: export PYENV_VERSION := 3.11
.tools/clients: export UV_PYTHON := 3.11
.tools/clients: tests/clients/pyproject.toml tests/clients/uv.lock
	UV_PROJECT_ENVIRONMENT=$(CURDIR)/$@ $(UV) sync --locked --quiet --project tests/clients
	@touch $@

# Validates and runs the compiled pipeline with Kubeflow Pipelines' own code. Needs Go and git; takes some minutes the first time.
test-kfp: install .tools/acceptance  ## run the pipeline with the code of Kubeflow Pipelines
	KFP_ACCEPTANCE=$(CURDIR)/.tools/acceptance $(RUN) --group kfp pytest tests/runners/test_kubeflow_acceptance.py tests/runners/test_kubeflow_launcher.py

# Tests the cluster's manifests as kustomize builds them. Needs Go.
test-manifests: install .tools/bin/kustomize  ## validate the Kubernetes manifests
	KUSTOMIZE=$(CURDIR)/.tools/bin/kustomize $(RUN) pytest tests/runners/test_kubeflow_manifests.py

# Builds the image, and rehearses the pipeline in it. Needs Docker or podman, and 25 GB of temporary disk space.
test-image: install  ## build the container image and run the pipeline in it
	$(ENGINE) build $(BUILD_OPTIONS) -f kubeflow/Dockerfile -t captcha-pipeline:test .
	ENGINE=$(ENGINE) CAPTCHA_IMAGE=captcha-pipeline:test $(RUN) pytest tests/runners/test_kubeflow_image.py

# Runs the Beam steps on a Flink cluster on this machine. Needs Java 11 or 17, and Maven if JOB_SERVER is empty. Takes 15 minutes.
test-flink: install $(FLINK)  ## run the Beam steps on a local Flink cluster
	FLINK=$(FLINK) FLINK_RELEASE=$(FLINK_RELEASE) JOB_SERVER=$(JOB_SERVER) $(RUN) pytest tests/runners/test_flink.py tests/runners/test_flink_errors.py

# Prints the path of the job server, and downloads it first if it is missing.
job-server: install
	@$(RUN) python -m deploy.flink.job_server $(FLINK_RELEASE)

flink-up: install $(FLINK)  ## start a local Flink cluster
	$(RUN) python -m deploy.flink.cluster up $(FLINK) $(FLINK_RELEASE) .tools/flink-cluster $(if $(JOB_SERVER),--job-server $(JOB_SERVER))

flink-bench: install $(FLINK)
	$(RUN) python -m benchmarks.engines $(FLINK) $(FLINK_RELEASE) $(if $(JOB_SERVER),--job-server $(JOB_SERVER))
	$(RUN) python -m benchmarks.results

flink-down: install  ## stop it
	$(RUN) python -m deploy.flink.cluster down .tools/flink-cluster

check: install  ## run linters and type checkers
	$(RUN) hadolint kubeflow/Dockerfile
	$(RUN) ruff check .
	$(RUN) ruff format --check .
	$(RUN) lint-imports
	$(RUN) deptry .
	$(RUN) mypy components deploy pipeline benchmarks experiments reader/captcha_read
	$(RUN) mypy --allow-untyped-defs tests

# Needs Go; takes some minutes the first time.
prose: .tools/bin/vale  ## advice on the English of documentation and docstrings
	@.tools/bin/vale --no-exit --output=line $(shell git ls-files '*.md' 'components/*.py' 'pipeline/*.py' 'deploy/*.py' 'benchmarks/*.py')

# Takes about 20 minutes. The figures are valid only if nothing else runs on the machine.
bench: install  ## run the short benchmarks
	@set -e; for name in $(BENCHMARKS); do $(RUN) python -m benchmarks.$$name; done
	$(RUN) python -m benchmarks.results

# The pictures are made once. Remove the folder to make them again.
$(DATA)/span-000001/manifest.json: | install
	$(RUN) captcha-pipeline data synth --config $(CONFIG)

# pyenv's `python3.10` only runs if its version is selected. Without it, uv downloads Python.
install: export PYENV_VERSION := $(UV_PYTHON)
install: $(if $(filter .tools/bin/uv,$(UV)),.tools/bin/uv)  ## install everything that is locked
	@echo "glibc $(GLIBC): $(TRAIN)"
	@$(UV) sync --locked --quiet || { echo 'The installation failed:'; $(UV) sync --locked; }

.tools/bin/uv:
	@echo "uv is not installed: installing uv $(UV_VERSION) into .tools"
	@if python3 -m venv .tools >/dev/null 2>&1; then .tools/bin/pip install --quiet --disable-pip-version-check uv==$(UV_VERSION); \
	else curl -LsSf https://astral.sh/uv/$(UV_VERSION)/install.sh | env UV_UNMANAGED_INSTALL=$(CURDIR)/.tools/bin sh; fi

$(FLINK): | install
	$(UV) pip install --quiet --no-deps --target $(@D) apache-flink-libraries==$(patsubst flink-%,%,$(notdir $(@D)))

.tools/java/classpath: tests/java/pom.xml tests/java/Reader.java
	mvn --quiet --batch-mode --file tests/java/pom.xml compile

.tools/bin/kustomize:
	GOBIN=$(CURDIR)/.tools/bin go install sigs.k8s.io/kustomize/kustomize/v5@$(KUSTOMIZE_VERSION)

.tools/bin/vale:
	GOBIN=$(CURDIR)/.tools/bin go install github.com/vale-cli/vale/v3/cmd/vale@$(VALE_VERSION)

# Built in the release's own module, with exactly the dependencies that it pins. Nothing is written to the checkout.
ACCEPTANCE := $(wildcard kubeflow/acceptance/*.go)
.tools/acceptance: $(ACCEPTANCE) $(KFP_SOURCE)/go.mod
	@mkdir -p .tools
	@separator='{"Replace": {'; for file in $(notdir $(ACCEPTANCE)); do \
	  printf '%s"$(KFP_SOURCE)/acceptance/%s": "$(CURDIR)/kubeflow/acceptance/%s"' "$$separator" $$file $$file; separator=', '; \
	done >.tools/overlay.json; echo '}}' >>.tools/overlay.json
	cd $(KFP_SOURCE) && go build -overlay $(CURDIR)/.tools/overlay.json -o $(CURDIR)/$@ ./acceptance

$(CURDIR)/.tools/kubeflow-pipelines/go.mod:
	git clone --quiet --depth 1 --branch $(KFP_VERSION) https://github.com/kubeflow/pipelines $(@D)
