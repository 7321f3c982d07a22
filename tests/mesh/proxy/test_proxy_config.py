"""Configuration: names, defaults, and one clear line for each mistake."""

from __future__ import annotations

import subprocess
import sys

import pytest

from mesh.control import pki
from mesh.proxy.config import Address, InvalidConfig, load_config

PREFIX = "LINKERD2_PROXY_"
IDENTITY = {
    "IDENTITY_SVC_ADDR": "127.0.0.1:8080",
    "IDENTITY_SVC_NAME": "identity.local",
    "IDENTITY_TRUST_ANCHORS": pki.create_trust_anchor().certificate_pem,
    "IDENTITY_LOCAL_NAME": "a.b.local",
    "IDENTITY_TOKEN_FILE": "/token",
}


def load(**values: str) -> object:
    return load_config({PREFIX + name: value for name, value in values.items()})


def test_defaults_are_linkerds() -> None:
    config = load_config({})
    assert config.outbound_listen == Address("127.0.0.1", 4140)
    assert (config.outbound_connect_timeout, config.inbound_connect_timeout) == (1.0, 0.3)
    assert (config.outbound_discovery_idle, config.inbound_discovery_idle) == (5.0, 90.0)
    assert config.identity is None


@pytest.mark.parametrize(
    "policy",
    ["all-unauthenticated", "all-authenticated", "cluster-unauthenticated", "cluster-authenticated", "deny", "audit"],
)
def test_each_default_policy_is_known(policy: str) -> None:
    config = load_config(
        {PREFIX + "INBOUND_DEFAULT_POLICY": policy, PREFIX + "POLICY_CLUSTER_NETWORKS": "10.1.0.0/16, fd00::/8"}
    )
    assert config.default_policy == policy
    assert config.cluster_networks == ("10.1.0.0/16", "fd00::/8")


def test_a_whole_identity_is_read() -> None:
    config = load_config({PREFIX + name: value for name, value in {**IDENTITY, "IDENTITY_MIN_REFRESH": "2s"}.items()})
    assert config.identity is not None
    assert config.identity.local_name == "a.b.local"
    assert config.identity.min_refresh == 2.0


def test_nothing_watches_by_default_but_the_flight_recorder() -> None:
    config = load_config({})
    assert (config.trace, config.access_log, config.tap_name, config.shutdown_endpoint) == (None, "", "", False)
    assert (config.tap_listen, config.flight_recorder_size) == (Address("0.0.0.0", 4190), 256)


def test_a_collector_is_read_with_its_name_and_attributes() -> None:
    config = load_config(
        {
            PREFIX + "TRACE_COLLECTOR_SVC_ADDR": "collector.obs:4318",
            PREFIX + "TRACE_COLLECTOR_SVC_NAME": "collector.local",
            PREFIX + "TRACE_EXTRA_ATTRIBUTES": 'k8s.pod.name=pay-0\nzone="a",',
        }
    )
    collector = config.trace
    assert collector is not None
    assert (collector.host, collector.port, collector.name) == ("collector.obs", 4318, "collector.local")
    assert collector.service_name == "linkerd-proxy"
    assert collector.attributes == {"k8s.pod.name": "pay-0", "zone": "a"}


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"INBOUND_LISTEN_ADDR": "localhost:4143"}, "INBOUND_LISTEN_ADDR"),
        ({"ADMIN_LISTEN_ADDR": "127.0.0.1"}, "ADMIN_LISTEN_ADDR"),
        ({"ADMIN_LISTEN_ADDR": "127.0.0.1:70000"}, "ADMIN_LISTEN_ADDR"),
        ({"OUTBOUND_CONNECT_TIMEOUT": "1"}, "OUTBOUND_CONNECT_TIMEOUT"),
        ({"OUTBOUND_CONNECT_TIMEOUT": "-1s"}, "OUTBOUND_CONNECT_TIMEOUT"),
        ({"OUTBOUND_BIND_IP": "here"}, "OUTBOUND_BIND_IP"),
        ({"POLICY_WORKLOAD": "cart-0"}, "POLICY_WORKLOAD"),
        ({"POLICY_SVC_ADDR": "127.0.0.1:8090"}, "POLICY_SVC_NAME"),
        ({"LOG": "loud"}, "LOG"),
        ({"LOG": "warn,linkerd=loud"}, "LOG"),
        ({"CONTROL_LISTEN_ADDR": "4190"}, "CONTROL_LISTEN_ADDR"),
        ({"TRACE_COLLECTOR_SVC_ADDR": "collector"}, "TRACE_COLLECTOR_SVC_ADDR"),
        (
            {"TRACE_COLLECTOR_SVC_ADDR": "collector.obs:4318", "TRACE_EXTRA_ATTRIBUTES": "pod"},
            "TRACE_EXTRA_ATTRIBUTES",
        ),
        ({"ACCESS_LOG": "xml"}, "ACCESS_LOG"),
        ({"FLIGHT_RECORDER_SIZE": "0"}, "FLIGHT_RECORDER_SIZE"),
        ({"METRICS_RETAIN_IDLE": "10"}, "METRICS_RETAIN_IDLE"),
        ({"SHUTDOWN_ENDPOINT_ENABLED": "maybe"}, "SHUTDOWN_ENDPOINT_ENABLED"),
        ({"INBOUND_DEFAULT_POLICY": "maybe"}, "INBOUND_DEFAULT_POLICY"),
        ({"POLICY_CLUSTER_NETWORKS": "10.0.0.0/8,ten"}, "POLICY_CLUSTER_NETWORKS"),
        ({"OUTBOUND_STATIC": '{"a:80": "127.0.0.1:80"}'}, "OUTBOUND_STATIC"),
        ({"OUTBOUND_STATIC": '{"a:80": ["nowhere:80"]}'}, "OUTBOUND_STATIC"),
        ({"OUTBOUND_MAX_IN_FLIGHT": "0"}, "OUTBOUND_MAX_IN_FLIGHT"),
        ({**IDENTITY, "IDENTITY_TOKEN_FILE": ""}, "IDENTITY_TOKEN_FILE"),
        ({**IDENTITY, "IDENTITY_MIN_REFRESH": "25h"}, "IDENTITY_MIN_REFRESH"),
        ({**IDENTITY, "IDENTITY_TRUST_ANCHORS": "none"}, "IDENTITY_TRUST_ANCHORS"),
        ({**IDENTITY, "IDENTITY_TRUST_ANCHORS_FILE": "/ca.crt"}, "IDENTITY_TRUST_ANCHORS_FILE: give this or"),
        (
            {**IDENTITY, "IDENTITY_TRUST_ANCHORS": "", "IDENTITY_TRUST_ANCHORS_FILE": "/none/ca.crt"},
            "IDENTITY_TRUST_ANCHORS_FILE: /none/ca.crt: cannot be read",
        ),
        ({"OUTBOUND_MAX_DESTINATIONS": "0"}, "OUTBOUND_MAX_DESTINATIONS"),
    ],
)
def test_a_wrong_value_is_named(values: dict[str, str], named: str) -> None:
    with pytest.raises(InvalidConfig, match=PREFIX + named):
        load(**values)


@pytest.mark.e2e
def test_a_wrong_value_ends_the_process_with_one_line_and_status_2() -> None:
    environment = {PREFIX + "ADMIN_LISTEN_ADDR": "nowhere", "PATH": ""}
    done = subprocess.run(
        [sys.executable, "-m", "mesh.proxy"], env=environment, capture_output=True, text=True, timeout=20
    )
    assert done.returncode == 2
    assert done.stderr.splitlines() == [f"gameday proxy: {PREFIX}ADMIN_LISTEN_ADDR: 'nowhere' is not ip:port"]
