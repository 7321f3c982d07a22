"""Values: what wins over what, what is refused and how, and that what is stored reads back."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
import yaml
from msgspec.structs import replace

from mesh.api.values import VERSION, Image, Values
from mesh.deploy.reference import BEGIN, END, values_table, written
from mesh.deploy.values import InvalidValues, dump_values, field_names, load_values, read_values, to_mapping


def refusal(*settings: str, files: tuple[Path, ...] = ()) -> str:
    with pytest.raises(InvalidValues) as caught:
        read_values(settings=settings, files=files)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_the_version_is_the_projects() -> None:
    project = tomllib.loads((Path(__file__).parents[3] / "pyproject.toml").read_text())
    assert project["project"]["version"] == VERSION


def test_stored_values_read_back_and_hold_every_field() -> None:
    values = read_values(high_availability=True, settings=["proxy.logLevel=debug", "tolerations=[{operator: Exists}]"])
    text = dump_values(values)
    assert load_values(text) == values
    assert yaml.safe_load(text) == to_mapping(values)


def test_set_wins_over_files_and_files_over_ha(tmp_path: Path) -> None:
    first, second = tmp_path / "a.yaml", tmp_path / "b.yaml"
    first.write_text("controllerReplicas: 5\nproxy: {logLevel: debug, uid: 3000}\n")
    second.write_text("proxy: {logLevel: error}\n")
    values = read_values(high_availability=True, files=[first, second], settings=["proxy.uid=3001"])
    assert values.controller_replicas == 5
    assert values.webhook_failure_policy == "Fail"
    assert (values.proxy.log_level, values.proxy.uid) == ("error", 3001)


def test_text_that_looks_like_a_number_stays_text_where_text_is_wanted() -> None:
    values = read_values(settings=["image.version=1.20", "proxy.opaquePorts=25", "identity.resources.cpu.limit=010"])
    assert values.image.version == "1.20"
    assert values.proxy.opaque_ports == "25"
    assert values.identity.resources.cpu.limit == "010"


def test_a_node_selectors_key_may_have_dots() -> None:
    values = read_values(settings=["nodeSelector.node.example/disk=ssd"])
    assert values.node_selector == {"kubernetes.io/os": "linux", "node.example/disk": "ssd"}


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("proxy.logLevl=debug", 'did you mean "proxy.logLevel"'),
        ("loglevel=debug", 'did you mean "proxy.logLevel"'),
        ("proxy", "write field=value"),
        ("proxy=1", "proxy: has fields of its own"),
        ("proxy.uid=0", "proxy.uid: 0 is not the sidecar's alone"),
        ("proxy.uid=many", "proxy.uid: expected a whole number, got text"),
        ("proxy.logLevel=loud", "proxy.logLevel: 'loud'"),
        ("proxy.defaultInboundPolicy=dny", 'did you mean "deny"'),
        ("proxy.opaquePorts=25,x", "proxy.opaquePorts: 'x' is neither a port"),
        ("proxy.opaquePorts=9-8", "ends before it begins"),
        ("proxy.outboundConnectTimeout=3", "proxy.outboundConnectTimeout: '3' is not a duration"),
        ("identity.issuer.issuanceLifetime=0s", "must be longer than zero"),
        ("clusterNetworks=10.0.0.0/33", "clusterNetworks: '10.0.0.0/33' is not a network"),
        ("clusterNetworks=", "clusterNetworks: must name a network"),
        ("webhookFailurePolicy=fail", 'did you mean "Fail"'),
        ("proxyInjector.timeoutSeconds=31", "31 is not from 1 to 30"),
        ("proxyInit.iptablesMode=ebpf", "proxyInit.iptablesMode: 'ebpf' is not one of nft, legacy"),
        ("identity.resources.memory.limit=lots", "identity.resources.memory.limit: 'lots' is not a quantity"),
        ("imagePullSecrets=[A_B]", "imagePullSecrets[0]: 'A_B' is not the name of a Secret"),
        ("networkPolicies.apiServerPorts=443-6443", "is not a list of ports"),
        ("identityTrustDomain=Cluster.Local", "is not a DNS name"),
    ],
)
def test_a_wrong_setting_is_refused_with_field_and_remedy(setting: str, said: str) -> None:
    assert said in refusal(setting)


def test_a_wrong_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "values.yaml"
    assert str(path) in refusal(files=(path,))
    path.write_text("- a\n")
    assert "must be a mapping" in refusal(files=(path,))
    path.write_text("viz: {enabld: false}\n")
    assert refusal(files=(path,)).startswith(f"{path}: no field 'viz.enabld'; did you mean \"viz.enabled\"?")
    path.write_text("a: [\n")
    assert "not YAML" in refusal(files=(path,))


def test_an_older_reader_passes_over_fields_that_it_does_not_know() -> None:
    assert load_values("future: {a: 1}\ncontrollerReplicas: 2\n").controller_replicas == 2
    with pytest.raises(InvalidValues, match="controllerReplicas"):
        load_values("controllerReplicas: many\n")


def test_an_upgrade_moves_the_image_on_unless_the_user_chose_it() -> None:
    old = replace(Values(), version="0.0.9", image=Image(version="0.0.9"))
    assert read_values(base=old).image.version == VERSION
    chosen = replace(old, image=Image(version="mine"))
    assert read_values(base=chosen).image.version == "mine"
    assert read_values(base=chosen).version == VERSION


def test_the_page_for_users_has_every_field_as_it_is_now() -> None:
    page = (Path(__file__).parents[3] / "docs" / "kubernetes.md").read_text()
    assert page == written(page), "run python -m mesh.deploy.reference"
    table = page.partition(BEGIN)[2].partition(END)[0]
    grouped = {name for name in field_names() if ".resources." in name or "Probe." in name}
    for name in field_names():
        if name not in grouped and not isinstance(_value(name), dict):
            assert f"| `{name}` |" in table


def test_every_field_says_what_it_is() -> None:
    rows = [row.split(" | ") for row in values_table().splitlines()[2:]]
    assert [row[0] for row in rows if row[2].strip(" |") == ""] == []


def _value(name: str) -> object:
    found: object = to_mapping(Values())
    for step in name.split("."):
        assert isinstance(found, dict)
        found = found[step]
    return found
