"""The Kubernetes objects of the documentation, against the published schemas, and against what this package really serves."""

from pathlib import Path

import kubernetes_validate
import pytest
import yaml
from cloudcoil.models.keda import v1alpha1 as keda

EXAMPLE = Path(__file__).resolve().parents[2] / "docs" / "examples" / "kubernetes.yaml"
OBJECTS = {one["kind"]: one for one in yaml.safe_load_all(EXAMPLE.read_text())}


@pytest.mark.parametrize("kind", ["Deployment", "HorizontalPodAutoscaler"])
def test_kubernetes_own_objects_are_valid(kind):
    kubernetes_validate.validate(OBJECTS[kind], kubernetes_validate.latest_version(), strict=True)


def test_the_check_notices_what_is_not_in_the_schema():
    broken = {**OBJECTS["Deployment"], "spec": {**OBJECTS["Deployment"]["spec"], "replicaz": 3}}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(broken, kubernetes_validate.latest_version(), strict=True)


def test_kedas_object_is_valid():
    found = keda.ScaledObject.model_validate(OBJECTS["ScaledObject"])
    assert found.spec.scale_target_ref.name == OBJECTS["Deployment"]["metadata"]["name"]
    assert found.model_dump(by_alias=True, exclude_none=True, exclude_unset=True) == OBJECTS["ScaledObject"]  # no field is unknown


def test_probes_ask_where_readiness_answers():
    import inspect

    from holdfast.servers import Readiness

    known = {parameter.default for parameter in inspect.signature(Readiness).parameters.values()}
    container = OBJECTS["Deployment"]["spec"]["template"]["spec"]["containers"][0]
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert container[probe]["httpGet"]["path"] in known


def test_metrics_are_those_that_are_exported():
    from holdfast.observe import metrics

    exported = {one.name.replace(".", "_") for one in (metrics.WORKERS_BUSY, metrics.WORKERS_QUEUE)}
    scaled = {metric["pods"]["metric"]["name"] for metric in OBJECTS["HorizontalPodAutoscaler"]["spec"]["metrics"]}
    assert scaled == exported
    query = OBJECTS["ScaledObject"]["spec"]["triggers"][0]["metadata"]["query"]
    assert all(name in query for name in exported)
