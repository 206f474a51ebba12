"""The manifests for Flink on Kubernetes, checked strictly against the operator's and Kubernetes' schemas, and against our settings."""

import gzip
import json
import re

import jsonschema
import kubernetes_validate
import pytest
import yaml

from pipeline.config.engines import POOL_PORT, BeamConfig
from tests.support.manifests import KUBERNETES, Document, documents, plant, put
from tests.support.paths import ROOT, SUPPORT
from tests.support.strict_schema import closed

FOLDER = ROOT / "deploy" / "flink" / "kubernetes"
# The schema of v1beta1 in helm/flink-kubernetes-operator/crds/flinkdeployments.flink.apache.org-v1.yml, release 1.15.0.
SCHEMA = SUPPORT / "flink_deployment_v1.15.0.json.gz"
FLINK_DEPLOYMENT = jsonschema.Draft202012Validator(closed(json.loads(gzip.decompress(SCHEMA.read_bytes()))))


def resources() -> dict[tuple[str, str], Document]:
    found = [document for name in ("access.yaml", "flink.yaml", "job-server.yaml") for document in documents(FOLDER / name)]
    return {(document["kind"], document["metadata"]["name"]): document for document in found}


def check(document: Document) -> None:
    """Raises ValidationError for a field that the API server would refuse or drop."""
    for version in KUBERNETES:
        if document["kind"] == "FlinkDeployment":
            FLINK_DEPLOYMENT.validate({key: value for key, value in document.items() if key not in ("apiVersion", "kind", "metadata")})
            document = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": document["metadata"]}  # Kubernetes' schema checks this part
        kubernetes_validate.validate(document, version, strict=True)


@pytest.mark.slow
@pytest.mark.parametrize("key", resources(), ids=lambda key: "-".join(key))
def test_manifests_are_valid_and_every_planted_error_is_caught(key: tuple[str, str]) -> None:
    document = resources()[key]
    check(document)
    for place, error in plant(document):
        if "flinkConfiguration" not in place:
            with pytest.raises(jsonschema.ValidationError):
                check(put(document, place, error))


def test_every_referenced_name_exists() -> None:
    found = resources()
    flink, jobs = found["FlinkDeployment", "captcha-flink"], found["Deployment", "captcha-flink-jobs"]
    (server,) = jobs["spec"]["template"]["spec"]["containers"]
    # The operator gives this name to the REST service of a cluster.
    assert f"--flink-master={flink['metadata']['name']}-rest:8081" in server["args"]
    ports = {port["name"]: port["containerPort"] for port in server["ports"]}
    assert {f"--job-port={ports['jobs']}", f"--artifact-port={ports['artifacts']}"} <= set(server["args"])
    service = found["Service", "captcha-flink-jobs"]["spec"]
    assert service["selector"] == jobs["spec"]["template"]["metadata"]["labels"]
    assert {port["targetPort"]: port["port"] for port in service["ports"]} == ports
    account = ("ServiceAccount", flink["spec"]["serviceAccount"])
    assert account in found
    binding = found["RoleBinding", "captcha-flink"]
    assert [(subject["kind"], subject["name"]) for subject in binding["subjects"]] == [account]
    assert (binding["roleRef"]["kind"], binding["roleRef"]["name"]) in found
    allowed = yaml.safe_dump(found["NetworkPolicy", "captcha-flink"])
    assert all(name in allowed for name in ("captcha-flink", "captcha-flink-jobs", "captcha-pipeline/uses-flink"))


def test_the_profile_matches_the_manifests() -> None:
    profile = BeamConfig.model_validate(yaml.safe_load((FOLDER / "profile.yaml").read_text(encoding="utf-8")))
    flink = resources()["FlinkDeployment", "captcha-flink"]["spec"]
    assert profile.endpoint == "captcha-flink-jobs:8099"
    assert profile.environment is not None
    assert profile.environment.config == f"localhost:{POOL_PORT}"
    slots = int(flink["flinkConfiguration"]["taskmanager.numberOfTaskSlots"]) * flink["taskManager"]["replicas"]
    assert f"--parallelism={slots}" in profile.args


def test_releases_agree() -> None:
    """Flink's release in the image, the operator's key and the job server; Beam's release in the job server and the lock file."""
    flink = resources()["FlinkDeployment", "captcha-flink"]["spec"]
    image = resources()["Deployment", "captcha-flink-jobs"]["spec"]["template"]["spec"]["containers"][0]["image"]
    server = re.fullmatch(r"apache/beam_flink(?P<flink>[\d.]+)_job_server:(?P<beam>[\d.]+)", image)
    assert server is not None
    assert flink["image"].startswith(f"flink:{server['flink']}-")
    assert flink["flinkVersion"] == f"v{server['flink'].replace('.', '_')}"
    lock = (ROOT / "uv.lock").read_text(encoding="utf-8")
    assert server["beam"] == max(re.findall(r'name = "apache-beam"\nversion = "([\d.]+)"', lock))


def test_pods_have_minimal_privileges() -> None:
    flink = resources()["FlinkDeployment", "captcha-flink"]["spec"]
    jobs = resources()["Deployment", "captcha-flink-jobs"]["spec"]["template"]["spec"]
    assert flink["podTemplate"]["spec"]["securityContext"]["runAsUser"] == jobs["securityContext"]["runAsUser"] == 10001
    containers = [
        *flink["podTemplate"]["spec"]["containers"],
        *flink["taskManager"]["podTemplate"]["spec"]["containers"],
        *jobs["containers"],
    ]
    for container in containers:
        assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
        assert container["securityContext"]["allowPrivilegeEscalation"] is False
