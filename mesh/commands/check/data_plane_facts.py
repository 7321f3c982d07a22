"""The data plane: what pods say they are, what their proxies say, and which certificate each shows in a handshake."""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from lightkube import Client

from mesh.api.values import Values
from mesh.commands.check.cluster_facts import PROXY, PROXY_VERSION, pod_of, service_of
from mesh.commands.check.facts import Bundle, Proxy
from mesh.commands.check.reader import Json, Reader
from mesh.commands.handshake import HandshakeFailed, shown_certificates
from mesh.commands.portforward import PortForwarder
from mesh.control.injector.patch import annotations_of, verdict
from mesh.control.names import identity_name
from mesh.kube.client import ProxyFailed, proxy_get

TRUST_ROOTS = "linkerd-identity-trust-roots"
TRUST_ROOTS_KEY = "ca-bundle.crt"
ADMIN_PORT = 4191
PARALLEL = 16
TIMEOUT_SECONDS = 5.0


def learn(reader: Reader, client: Client, namespace: str | None, values: Values) -> dict[str, Any]:
    """Fields of `Facts`. `namespace` None: all namespaces."""
    found: dict[str, Any] = {"data_namespace_exists": True}
    if namespace is not None:
        found["data_namespace_exists"] = reader.learn(
            "data_namespace", lambda: reader.get(f"/api/v1/namespaces/{namespace}") is not None, True
        )
    within = f"/api/v1/namespaces/{namespace}" if namespace is not None else "/api/v1"
    pods = reader.learn("data_pods", lambda: reader.list(f"{within}/pods"), [])
    if "data_pods" in reader.unknown:
        reader.unknown["proxies"] = reader.unknown["data_pods"]
    meshed = [pod for pod in pods if PROXY_VERSION in (pod["metadata"].get("annotations") or {})]
    found["unmeshed"] = reader.learn("unmeshed", lambda: _unmeshed(reader, pods), ())
    places = sorted({pod["metadata"]["namespace"] for pod in meshed})
    found["data_pods"] = tuple(pod_of(pod) for pod in pods if pod["metadata"]["namespace"] in places)
    found["services"] = reader.learn(
        "services",
        lambda: tuple(
            service_of(service) for place in places for service in reader.list(f"/api/v1/namespaces/{place}/services")
        ),
        (),
    )
    found["bundles"] = reader.learn("bundles", lambda: tuple(_bundle(reader, place) for place in places), ())
    with ThreadPoolExecutor(PARALLEL) as pool:
        forwarder = PortForwarder(client.config)
        found["proxies"] = tuple(pool.map(lambda pod: _proxy(client, forwarder, pod, values.trust_domain), meshed))
    return found


def _unmeshed(reader: Reader, pods: Iterable[Json]) -> tuple[str, ...]:
    asking = {item["metadata"]["name"]: annotations_of(item) for item in reader.list("/api/v1/namespaces")}
    facts = [pod_of(pod) for pod in pods if not verdict(pod, asking.get(pod["metadata"]["namespace"], {})).reason]
    return tuple(pod.place for pod in facts if pod.phase == "Running")


def _bundle(reader: Reader, namespace: str) -> Bundle:
    config = reader.get(f"/api/v1/namespaces/{namespace}/configmaps/{TRUST_ROOTS}")
    return Bundle(namespace=namespace, pem=((config or {}).get("data") or {}).get(TRUST_ROOTS_KEY))


def _proxy(client: Client, forwarder: PortForwarder, pod: Json, trust_domain: str) -> Proxy:
    fact = pod_of(pod)
    if fact.phase != "Running" or PROXY not in fact.containers:
        return Proxy(pod=fact)
    metrics, unreachable = None, ""
    try:
        text = proxy_get(
            client, fact.namespace, "pods", f"{fact.name}:{ADMIN_PORT}", "/metrics", timeout=TIMEOUT_SECONDS
        )
        metrics = unlabelled(text.decode("utf-8", "replace").splitlines())
    except ProxyFailed as error:
        unreachable = str(error)
    identity = identity_name(pod["spec"].get("serviceAccountName") or "default", fact.namespace, trust_domain)
    chain, handshake = "", ""
    try:
        chain = shown_certificates(forwarder, fact.namespace, fact.name, identity).pem
    except HandshakeFailed as error:
        handshake = str(error)
    return Proxy(pod=fact, metrics=metrics, unreachable=unreachable, chain_pem=chain, handshake=handshake)


def unlabelled(lines: Iterable[str]) -> dict[str, float]:
    """The series of an exposition that have no labels."""
    found: dict[str, float] = {}
    for line in lines:
        name, _, value = line.partition(" ")
        if not name or name == "#" or "{" in name:
            continue
        try:
            found[name] = float(value.split()[0])
        except (ValueError, IndexError):
            continue  # no sample; the exposition's own tests are the proxy's
    return found
