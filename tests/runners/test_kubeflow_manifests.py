"""The manifests of the cluster, checked strictly against Kubernetes' and KServe's schemas, and against the paths of the pipeline."""

import gzip
import json
import os
import subprocess
from pathlib import Path

import jsonschema
import kubernetes_validate
import pytest
import yaml

from pipeline.config.loading import load_config
from tests.support.manifests import KUBERNETES, Document, documents, plant, put
from tests.support.paths import ROOT, SUPPORT
from tests.support.strict_schema import closed

MANIFESTS = ROOT / "kubeflow" / "manifests"
RESOURCES = sorted(set(MANIFESTS.rglob("*.yaml")) - set(MANIFESTS.rglob("kustomization.yaml")))
OVERLAYS = sorted((MANIFESTS / "overlays").iterdir())
ALONE = [MANIFESTS / "loader", MANIFESTS / "retrain"]
FLINK = ROOT / "deploy" / "flink" / "kubernetes"
KUSTOMIZE = os.environ.get("KUSTOMIZE")
# The schema of v1beta1 in config/crd/full/serving.kserve.io_inferenceservices.yaml of KServe 0.20.0, unchanged.
KSERVE = SUPPORT / "kserve_inferenceservice_v0.20.0.json.gz"

INFERENCE_SERVICE = jsonschema.Draft202012Validator(closed(json.loads(gzip.decompress(KSERVE.read_bytes()))))


def check(document: Document) -> None:
    """Raises ValidationError for a field that the API server would refuse or drop."""
    for version in KUBERNETES:
        if document["kind"] == "InferenceService":
            INFERENCE_SERVICE.validate(document)
            metadata = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": document["metadata"]}  # the schema has an open object here
            kubernetes_validate.validate(metadata, version, strict=True)
        else:
            kubernetes_validate.validate(document, version, strict=True)


def pod_specs(resources: list[Document]) -> list[Document]:
    deployed = [resource["spec"]["template"]["spec"] for resource in resources if resource["kind"] == "Deployment"]
    deployed += [resource["spec"]["predictor"] for resource in resources if resource["kind"] == "InferenceService"]
    jobs = [resource["spec"]["jobTemplate"]["spec"]["template"]["spec"] for resource in resources if resource["kind"] == "CronJob"]
    return deployed + jobs + [resource["spec"] for resource in resources if resource["kind"] == "Pod"]


@pytest.mark.slow
@pytest.mark.parametrize("path", RESOURCES, ids=lambda path: str(path.relative_to(MANIFESTS)))
def test_manifests_are_valid_and_every_planted_error_is_caught(path: Path) -> None:
    for document in documents(path):
        check(document)
        for place, error in plant(document):
            with pytest.raises(jsonschema.ValidationError):
                check(put(document, place, error))


@pytest.mark.parametrize("server", ["serving", "captcha-server"])
def test_every_referenced_name_exists(server: str) -> None:
    """With each server: accounts, claims, settings, the ports of services and policies, pod selectors, and scaling targets."""
    folders = {"base", "server-policies", server}
    resources = [document for path in RESOURCES if path.parent.name in folders for document in documents(path)]
    names = {(resource["kind"], resource["metadata"]["name"]) for resource in resources}
    pods = [resource["spec"]["template"] for resource in resources if resource["kind"] == "Deployment"]
    labels = [pod["metadata"]["labels"] for pod in pods]
    for pod in pods:
        for volume in pod["spec"]["volumes"]:
            assert "emptyDir" in volume or ("PersistentVolumeClaim", volume["persistentVolumeClaim"]["claimName"]) in names
        for container in pod["spec"].get("initContainers", []):
            assert {mount["name"] for mount in container["volumeMounts"]} <= {volume["name"] for volume in pod["spec"]["volumes"]}
            assert {("ConfigMap", source["configMapRef"]["name"]) for source in container.get("envFrom", [])} <= names
        for container in pod["spec"]["containers"]:
            assert {mount["name"] for mount in container["volumeMounts"]} == {volume["name"] for volume in pod["spec"]["volumes"]}
            assert {("ConfigMap", source["configMapRef"]["name"]) for source in container.get("envFrom", [])} <= names
            probed = [probe for kind in ("startupProbe", "readinessProbe", "livenessProbe") if (probe := container.get(kind))]
            asked = {(probe.get("httpGet") or probe["tcpSocket"])["port"] for probe in probed}
            assert asked <= {port["name"] for port in container["ports"]}
    ports = {port["name"] for pod in pods for container in pod["spec"]["containers"] for port in container["ports"]}
    for resource in resources:
        spec = resource.get("spec", {})
        if resource["kind"] == "Service":
            assert spec["selector"] in labels
            assert {port["targetPort"] for port in spec["ports"]} <= ports
        if resource["kind"] in {"Deployment", "PodDisruptionBudget"}:
            assert spec["selector"]["matchLabels"] in labels
        if resource["kind"] == "NetworkPolicy":
            assert spec["podSelector"]["matchLabels"] in labels
            assert {port["port"] for rule in spec.get("ingress", []) for port in rule["ports"]} <= {*ports, "grpc"}
        if resource["kind"] == "HorizontalPodAutoscaler":
            assert (spec["scaleTargetRef"]["kind"], spec["scaleTargetRef"]["name"]) in names
        if resource["kind"] == "RoleBinding":
            assert {(subject["kind"], subject["name"]) for subject in [resource["roleRef"], *resource["subjects"]]} <= names


def test_servers_read_the_paths_that_the_pipeline_writes() -> None:
    (settings,) = documents(MANIFESTS / "base" / "settings.yaml")
    name = settings["data"]["PIPELINE"]
    config = load_config(ROOT / "configs" / "kubeflow.yaml", [])
    assert config.name == name
    (claim,) = documents(MANIFESTS / "base" / "volume-claim.yaml")
    assert config.kubeflow.volumes == {"/mnt/captcha": claim["metadata"]["name"]}
    (tensorboard,) = pod_specs(documents(MANIFESTS / "base" / "tensorboard.yaml"))
    (serving,) = pod_specs(documents(MANIFESTS / "serving" / "serving.yaml"))
    (inference,) = documents(MANIFESTS / "kserve" / "inference-service.yaml")
    assert f"--logdir={config.log_dir}" in [part.replace("$(PIPELINE)", name) for part in tensorboard["containers"][0]["command"]]
    command = [part.replace("$(PIPELINE)", name) for part in serving["containers"][0]["command"]]
    assert f"--model_base_path={config.serving_dir}" in command
    for pod in (tensorboard, serving):
        (mount,) = [mount for mount in pod["containers"][0]["volumeMounts"] if mount["name"] == "captcha"]
        assert (mount["mountPath"], mount["readOnly"]) == ("/mnt/captcha", True)
    uri = inference["spec"]["predictor"]["model"]["storageUri"].replace("PIPELINE", name)
    assert uri == config.serving_dir.replace("/mnt/captcha", "pvc://captcha")
    (waits,), (makes,) = serving["initContainers"], inference["spec"]["predictor"]["initContainers"]
    for container in (waits, makes):
        assert config.serving_dir in container["command"][-1].replace("$PIPELINE", name)


def test_a_pod_of_tensorflow_serving_waits_for_the_first_model(tmp_path: Path) -> None:
    """It runs the command of the manifest, in a folder of its own."""
    (pod,) = pod_specs(documents(MANIFESTS / "serving" / "serving.yaml"))
    (container,) = pod["initContainers"]
    command = [part.replace("/mnt/captcha", str(tmp_path)) for part in container["command"]]
    folder = tmp_path / "output" / "tiny" / "serving" / "tiny"
    waiting = subprocess.Popen(command, env=os.environ | {"PIPELINE": "tiny"}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        with pytest.raises(subprocess.TimeoutExpired):
            waiting.wait(0.5)
        (folder / ".pushing").mkdir(parents=True)
        with pytest.raises(subprocess.TimeoutExpired):
            waiting.wait(6)
        (folder / "1796000000").mkdir()
        assert waiting.wait(20) == 0
    finally:
        waiting.kill()
        waiting.wait()


def test_a_pod_of_kserve_makes_the_folder_of_the_model(tmp_path: Path) -> None:
    (pod,) = pod_specs(documents(MANIFESTS / "kserve" / "inference-service.yaml"))
    (container,) = pod["initContainers"]
    command = [part.replace("/mnt/captcha", str(tmp_path)) for part in container["command"]]
    for _ in range(2):
        subprocess.run(command, env=os.environ | {"PIPELINE": "tiny"}, check=True)
    assert (tmp_path / "output" / "tiny" / "serving" / "tiny").is_dir()
    assert pod["volumes"][0]["persistentVolumeClaim"]["claimName"] == "captcha"


def test_this_projects_server_is_configured_as_its_pod_needs() -> None:
    (pod,) = pod_specs(documents(MANIFESTS / "captcha-server" / "serving.yaml"))
    (container,) = pod["containers"]
    program, command, config, *overrides = container["command"]
    assert [program, command, config] == ["captcha-pipeline", "serve", "--config=/mnt/captcha/kubeflow.yaml"]
    settings = load_config(ROOT / "configs" / "kubeflow.yaml", [override.removeprefix("--set=") for override in overrides])
    assert settings.served_name == "captcha", "as TensorFlow Serving's manifest names the model"
    assert settings.server.host == "0.0.0.0"
    assert [port["containerPort"] for port in container["ports"]] == [settings.server.port]
    paused = int(container["lifecycle"]["preStop"]["exec"]["command"][-1])
    assert pod["terminationGracePeriodSeconds"] > paused + settings.server.drain_seconds


def test_pods_meet_the_restricted_standard_and_no_file_has_a_secret() -> None:
    """https://kubernetes.io/docs/concepts/security/pod-security-standards, and also numeric users and a read-only image."""
    resources = [document for path in RESOURCES for document in documents(path)]
    for pod in pod_specs(resources):
        assert pod["automountServiceAccountToken"] is False
        for container in all_containers(pod):  # KServe adds the other containers of its pods
            context = pod.get("securityContext", {}) | container["securityContext"]
            assert context.pop("runAsUser") == context.pop("runAsGroup") == 10001
            assert context == {
                "runAsNonRoot": True,
                "seccompProfile": {"type": "RuntimeDefault"},
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }
            assert container["resources"]["limits"]["memory"]
    assert not [resource for resource in resources if resource["kind"] == "Secret"]
    rules = [rule for resource in resources if resource["kind"] == "Role" for rule in resource["rules"]]
    assert "*" not in {word for rule in rules for words in rule.values() for word in words}
    assert all("resourceNames" in rule for rule in rules if {"secrets", "configmaps"} & set(rule["resources"]))


def all_containers(pod: Document) -> list[Document]:
    return [*pod.get("containers", []), *pod.get("initContainers", [])]


def build(overlay: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([KUSTOMIZE or "", "build", str(overlay)], capture_output=True, text=True)


@pytest.mark.skipif(not KUSTOMIZE, reason="KUSTOMIZE is not set: run make test-manifests")
@pytest.mark.parametrize("overlay", OVERLAYS, ids=lambda path: path.name)
def test_overlays_built_by_kustomize(overlay: Path) -> None:
    built = build(overlay)
    assert built.returncode == 0, built.stderr
    resources = list(yaml.safe_load_all(built.stdout))
    for resource in resources:
        check(resource)
        assert resource["metadata"]["labels"]["app.kubernetes.io/part-of"] == "captcha-pipeline"
        assert "namespace" not in resource["metadata"], "kubectl -n gives it"
    images = {container["image"] for pod in pod_specs(resources) for container in all_containers(pod)}
    served = [resource for resource in resources if resource["kind"] in {"InferenceService", "HorizontalPodAutoscaler"}]
    (claim,) = [resource for resource in resources if resource["kind"] == "PersistentVolumeClaim"]
    assert len(served) == 1
    if overlay.name == "kserve":
        assert images == {"registry.example/captcha-pipeline:1"}
        assert served[0]["spec"]["predictor"]["model"]["storageUri"] == "pvc://captcha/output/digits/serving/digits"
    elif overlay.name == "captcha-server":
        assert images == {"registry.example/captcha-pipeline:1"}
    else:
        assert images == {"registry.example/captcha-pipeline:1", "tensorflow/serving:2.20.0"}
    assert claim["spec"].get("storageClassName") == ("captcha-bucket" if overlay.name == "bucket" else None)


@pytest.mark.skipif(not KUSTOMIZE, reason="KUSTOMIZE is not set: run make test-manifests")
@pytest.mark.parametrize("folder", ALONE, ids=lambda path: path.name)
def test_standalone_manifests_have_the_image_of_the_overlays(folder: Path) -> None:
    (resource,) = yaml.safe_load_all(build(folder).stdout)
    check(resource)
    assert "namespace" not in resource["metadata"]
    (pod,) = pod_specs([resource])
    assert [container["image"] for container in pod["containers"]] == ["registry.example/captcha-pipeline:1"]
    assert {volume["persistentVolumeClaim"]["claimName"] for volume in pod["volumes"] if "emptyDir" not in volume} == {"captcha"}


@pytest.mark.skipif(not KUSTOMIZE, reason="KUSTOMIZE is not set: run make test-manifests")
def test_the_manifests_of_flink_have_the_image_of_the_overlays() -> None:
    found = {resource["kind"]: resource for resource in yaml.safe_load_all(build(FLINK).stdout)}
    pool = found["FlinkDeployment"]["spec"]["taskManager"]["podTemplate"]["spec"]["containers"]
    assert [container["image"] for container in pool] == ["registry.example/captcha-pipeline:1"]
    assert all("namespace" not in resource["metadata"] for resource in found.values())


@pytest.mark.skipif(not KUSTOMIZE, reason="KUSTOMIZE is not set: run make test-manifests")
def test_an_error_in_a_kustomization_is_caught(tmp_path: Path) -> None:
    (tmp_path / "kustomization.yaml").write_text("resources: [nowhere.yaml]\n")
    assert "nowhere.yaml" in build(tmp_path).stderr
    (tmp_path / "kustomization.yaml").write_text("ressources: []\n")
    assert "ressources" in build(tmp_path).stderr
