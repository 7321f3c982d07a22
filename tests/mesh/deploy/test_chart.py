"""The chart, rendered by real helm, against `install`: object by object, for several sets of values."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from mesh.api.values import HA, Values
from mesh.deploy.chart import chart_files, values_schema, write_chart
from mesh.deploy.credentials import create_credentials
from mesh.deploy.objects import Credentials, context_of, crd_objects, install_objects
from mesh.deploy.text import to_document
from mesh.deploy.values import read_values

HELM = os.environ.get("HELM") or shutil.which("helm")
needs_helm = pytest.mark.skipif(
    HELM is None, reason="helm is not in PATH; go install helm.sh/helm/v3/cmd/helm@latest puts it into ~/go/bin"
)
CREDENTIALS = create_credentials("cluster.local")
EXTERNAL_ISSUER = Credentials(CREDENTIALS.trust_anchors)

SETS: dict[str, tuple[list[str], bool, Credentials]] = {
    "defaults": ([], False, CREDENTIALS),
    "ha": ([], True, CREDENTIALS),
    "little": (["viz.enabled=false", "networkPolicies.enabled=false"], False, CREDENTIALS),
    "external issuer": (["identity.issuer.external=true"], False, EXTERNAL_ISSUER),
    "external CA": (["identity.issuer.external=true", "identity.externalCA=true"], False, Credentials("")),
    "gateway": (["installGatewayAPI=true"], False, CREDENTIALS),
    "lists": (
        [
            "imagePullSecrets=[one, two]",
            "proxyInjector.excludedNamespaces=[]",
            'tolerations=[{key: "a", operator: Exists}, {key: b, value: "1", effect: NoSchedule}]',
            "nodeSelector.disk=ssd",
            "networkPolicies.apiServerPorts=443, 16443",
        ],
        False,
        CREDENTIALS,
    ),
    "odd texts": (
        [
            'proxy.logLevel=warn,linkerd=debug,[{name="x"}]=trace',
            "identityTrustDomain=true.example",
            "image.version=1e3",
            "proxy.opaquePorts=",
            "identity.resources.memory.limit=1Gi",
            "policyController.resources.cpu.request=2",
        ],
        False,
        CREDENTIALS,
    ),
}


def rendered(tmp_path: Path, values: Values, credentials: Credentials) -> list[dict[str, Any]]:
    """The chart with its own defaults, and the values handed to helm as a user would."""
    write_chart(tmp_path / "chart")
    given = tmp_path / "given.yaml"
    given.write_text(to_document(context_of(values, credentials)))
    assert HELM is not None
    command = [HELM, "template", "mesh", str(tmp_path / "chart"), "--kube-version", "1.34.4", "--values", str(given)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    return [document for document in yaml.safe_load_all(done.stdout) if document is not None]


def by_name(objects: list[dict[str, Any]]) -> dict[tuple[str, str, str], dict[str, Any]]:
    """By kind, namespace and name. The one text that two YAML writers may write in two ways is read."""
    found = {}
    for item in objects:
        if item["kind"] == "ConfigMap" and "values" in item["data"]:
            item = item | {"data": {"values": yaml.safe_load(item["data"]["values"])}}
        key = (item["kind"], item["metadata"].get("namespace", ""), item["metadata"]["name"])
        assert key not in found, f"twice: {key}"
        found[key] = item
    return found


@needs_helm
@pytest.mark.parametrize("name", SETS)
def test_helm_renders_exactly_what_install_prints(name: str, tmp_path: Path) -> None:
    settings, high_availability, credentials = SETS[name]
    values = read_values(settings=settings, high_availability=high_availability)
    expected = by_name(crd_objects(values) + install_objects(values, credentials))
    found = by_name(rendered(tmp_path, values, credentials))
    assert found.keys() == expected.keys()
    for key, item in expected.items():
        assert found[key] == item, key


@needs_helm
def test_a_misspelt_field_is_refused_by_helm(tmp_path: Path) -> None:
    write_chart(tmp_path / "chart")
    assert HELM is not None
    command = [HELM, "template", "mesh", str(tmp_path / "chart"), "--kube-version", "1.34.4"]
    wrong = subprocess.run(
        [*command, "--set", "proxy.logLevl=debug"], capture_output=True, text=True, check=False, timeout=60
    )
    assert wrong.returncode != 0
    assert "logLevl" in wrong.stderr


@needs_helm
def test_without_an_issuer_helm_says_what_to_give(tmp_path: Path) -> None:
    write_chart(tmp_path / "chart")
    assert HELM is not None
    command = [HELM, "template", "mesh", str(tmp_path / "chart"), "--kube-version", "1.34.4"]
    wrong = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert wrong.returncode != 0
    assert "--set-file" in wrong.stderr


def test_the_charts_schema_takes_its_own_values_and_no_others() -> None:
    schema = values_schema()
    jsonschema.Draft7Validator.check_schema(schema)
    files = chart_files()
    jsonschema.validate(yaml.safe_load(files["values.yaml"]), schema, jsonschema.Draft7Validator)
    jsonschema.validate(HA, schema, jsonschema.Draft7Validator)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"proxy": {"logLevl": "x"}}, schema, jsonschema.Draft7Validator)
    assert json.loads(files["values.schema.json"]) == schema
