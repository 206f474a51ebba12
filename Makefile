# Two commands: `make run` and `make test`. Each installs what it needs into .venv (and uv into .tools, if it is not there).
#
# TFX 1.21 (Python 3.11) needs glibc 2.39 or newer; on older systems TFX 1.16 (Python 3.10) is the newest that loads.

GLIBC := $(shell getconf GNU_LIBC_VERSION | cut -d' ' -f2)
MODERN := $(shell printf '2.39\n$(GLIBC)\n' | sort -VC && echo yes)
export UV_PYTHON := $(if $(MODERN),3.11,3.10)
TRAIN := $(if $(MODERN),TFX 1.21 on Python 3.11,TFX 1.16 on Python 3.10)
# A run is many processes, each of which would compile all that it imports: the import of TFX takes twice as long then.
unexport PYTHONDONTWRITEBYTECODE

UV_VERSION := 0.13.9
UV := $(or $(shell command -v uv),.tools/bin/uv)
RUN := $(UV) run --locked
CONFIG := configs/digits.yaml
DATA := data/digits
KUSTOMIZE_VERSION := v5.8.1
KFP_VERSION := 2.17.0
# A checkout of that release, where there is one.
KFP_SOURCE ?= $(CURDIR)/.tools/kubeflow-pipelines
# Flink's jars, from PyPI.
FLINK_RELEASE := 1.20
FLINK ?= $(CURDIR)/.tools/flink-$(FLINK_RELEASE).5/pyflink
# Beam's job server for it; by Maven, if none is named.
JOB_SERVER ?=
# What builds and runs containers: docker or podman.
ENGINE ?= docker
BENCHMARKS := synthesis reading fit_overhead latency start_up whole_run

.PHONY: run test test-java test-kfp test-manifests test-image test-flink job-server flink-up flink-down flink-bench check bench install

run: $(DATA)/span-000001/manifest.json
	$(RUN) captcha-pipeline run --config $(CONFIG)

# Two files of tests at a time: each takes up to 3 GB. The slow ones first (tests/conftest.py), which have few tests: xdist would have them last.
test: install
	$(RUN) pytest -n 2 --dist loadfile --no-loadscope-reorder

# TensorFlow for Java reads with an exported model. Needs a JDK, 11 or newer, and Maven; gets 170 MB the first time.
test-java: install .tools/java/classpath
	JAVA_READER=$(CURDIR)/.tools/java $(RUN) pytest tests/serving/test_java.py

# Kubeflow Pipelines' own code judges what is compiled for it, and runs it. Needs Go and git; some minutes the first time.
test-kfp: install .tools/acceptance
	KFP_ACCEPTANCE=$(CURDIR)/.tools/acceptance $(RUN) --group kfp pytest tests/runners/test_kubeflow_acceptance.py tests/runners/test_kubeflow_launcher.py

# The manifests of the cluster as kustomize builds them. Needs Go.
test-manifests: install .tools/bin/kustomize
	KUSTOMIZE=$(CURDIR)/.tools/bin/kustomize $(RUN) pytest tests/runners/test_kubeflow_manifests.py

# Builds the image, and rehearses the pipeline in it. Needs Docker or podman, and 25 GB for a while.
test-image: install
	$(ENGINE) build $(BUILD_OPTIONS) -f kubeflow/Dockerfile -t captcha-pipeline:test .
	ENGINE=$(ENGINE) CAPTCHA_IMAGE=captcha-pipeline:test $(RUN) pytest tests/runners/test_kubeflow_image.py

# The Beam steps on a Flink cluster of this machine. Needs Java 11 or 17, and Maven if JOB_SERVER is not set. A quarter of an hour.
test-flink: install $(FLINK)
	FLINK=$(FLINK) FLINK_RELEASE=$(FLINK_RELEASE) JOB_SERVER=$(JOB_SERVER) $(RUN) pytest tests/runners/test_flink.py tests/runners/test_flink_lacking.py

# Says where the job server is, and gets it first if it is not there.
job-server: install
	@$(RUN) python -m deploy.flink.job_server $(FLINK_RELEASE)

flink-up: install $(FLINK)
	$(RUN) python -m deploy.flink.cluster up $(FLINK) $(FLINK_RELEASE) .tools/flink-cluster $(if $(JOB_SERVER),--job-server $(JOB_SERVER))

flink-bench: install $(FLINK)
	$(RUN) python -m benchmarks.engines $(FLINK) $(FLINK_RELEASE) $(if $(JOB_SERVER),--job-server $(JOB_SERVER))
	$(RUN) python -m benchmarks.results

flink-down: install
	$(RUN) python -m deploy.flink.cluster down .tools/flink-cluster

check: install
	$(RUN) hadolint kubeflow/Dockerfile
	$(RUN) ruff check .
	$(RUN) ruff format --check .
	$(RUN) lint-imports
	$(RUN) deptry .
	$(RUN) mypy components deploy pipeline benchmarks experiments
	$(RUN) mypy --allow-untyped-defs tests

# About twenty minutes. The figures are of use only where nothing else runs beside it.
bench: install
	@set -e; for name in $(BENCHMARKS); do $(RUN) python -m benchmarks.$$name; done
	$(RUN) python -m benchmarks.results

# The pictures are made once; remove the folder to have them made anew.
$(DATA)/span-000001/manifest.json: | install
	$(RUN) captcha-pipeline data synth --config $(CONFIG)

install: $(if $(filter .tools/bin/uv,$(UV)),.tools/bin/uv)
	@echo "glibc $(GLIBC): $(TRAIN)"
	@$(UV) sync --locked --quiet

.tools/bin/uv:
	@echo "uv is not installed: putting uv $(UV_VERSION) into .tools"
	@if python3 -m venv .tools >/dev/null 2>&1; then .tools/bin/pip install --quiet --disable-pip-version-check uv==$(UV_VERSION); \
	else curl -LsSf https://astral.sh/uv/$(UV_VERSION)/install.sh | env UV_UNMANAGED_INSTALL=$(CURDIR)/.tools/bin sh; fi

$(FLINK): | install
	$(UV) pip install --quiet --no-deps --target $(@D) apache-flink-libraries==$(patsubst flink-%,%,$(notdir $(@D)))

.tools/java/classpath: tests/java/pom.xml tests/java/Reader.java
	mvn --quiet --batch-mode --file tests/java/pom.xml compile

.tools/bin/kustomize:
	GOBIN=$(CURDIR)/.tools/bin go install sigs.k8s.io/kustomize/kustomize/v5@$(KUSTOMIZE_VERSION)

# Built in the release's own module, so with just the dependencies that it pins; nothing is written into the checkout.
ACCEPTANCE := $(wildcard kubeflow/acceptance/*.go)
.tools/acceptance: $(ACCEPTANCE) $(KFP_SOURCE)/go.mod
	@mkdir -p .tools
	@separator='{"Replace": {'; for file in $(notdir $(ACCEPTANCE)); do \
	  printf '%s"$(KFP_SOURCE)/acceptance/%s": "$(CURDIR)/kubeflow/acceptance/%s"' "$$separator" $$file $$file; separator=', '; \
	done >.tools/overlay.json; echo '}}' >>.tools/overlay.json
	cd $(KFP_SOURCE) && go build -overlay $(CURDIR)/.tools/overlay.json -o $(CURDIR)/$@ ./acceptance

$(CURDIR)/.tools/kubeflow-pipelines/go.mod:
	git clone --quiet --depth 1 --branch $(KFP_VERSION) https://github.com/kubeflow/pipelines $(@D)
