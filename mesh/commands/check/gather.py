"""Everything the checks need, asked of a cluster once.

    API ─► objects ─► facts          control plane, identity, webhooks
    pods' admin ports, handshakes    the data plane, with `--proxy`

What a question needs and who answers it stands in the functions below, one for each group of facts; what came of it is
judged elsewhere. Nothing is written to the cluster: webhooks are tried with dry runs.
"""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

from lightkube import Client

from mesh.api.values import CONFIG_KEY, CONFIG_MAP, VERSION, InvalidValues, Values, load_values
from mesh.commands.check import data_plane_facts, webhook_facts
from mesh.commands.check.checks.pre import CREATE, READ
from mesh.commands.check.cluster_facts import component_of, node_of, pod_of, service_of
from mesh.commands.check.expected import expected_objects
from mesh.commands.check.facts import Facts, Pod, Viz
from mesh.commands.check.identity_facts import secret_pem
from mesh.commands.check.objects import PARALLEL, compare, ref
from mesh.commands.check.reader import Json, Reader, Refused, Unlearned
from mesh.commands.check.served_facts import served
from mesh.deploy.paths import KINDS
from mesh.kube.client import ProxyFailed, http_of, proxy_get

TRUST_ROOTS = "linkerd-identity-trust-roots"
TRUST_ROOTS_KEY = "ca-bundle.crt"
ISSUER = "linkerd-identity-issuer"
EXTENSION = "linkerd.io/extension"


@dataclass(frozen=True, slots=True)
class Scope:
    """What is asked about."""

    namespace: str
    viz_namespace: str
    data_namespace: str | None = None
    pre: bool = False
    proxies: bool = False


def gather(client: Client, scope: Scope) -> Facts:
    """The facts, as of now. What could not be learned is in `Facts.unknown`."""
    reader = Reader(http_of(client))
    found: dict[str, Any] = {}
    _cluster(reader, found)
    found["namespace_exists"] = reader.learn(
        "namespace_exists", lambda: reader.get(f"/api/v1/namespaces/{scope.namespace}") is not None, True
    )
    if scope.pre:
        _permissions(reader, found)
        _existing(reader, found, expected_objects(Values()))
    else:
        _control_plane(reader, client, found, scope)
        _addresses(reader, found)
    if scope.proxies:
        found.update(data_plane_facts.learn(reader, client, scope.data_namespace, found.get("values") or Values()))
    return Facts(
        now=time.time(),
        client_version=VERSION,
        namespace=scope.namespace,
        viz_namespace=scope.viz_namespace,
        data_namespace=scope.data_namespace,
        unknown=reader.unknown,
        **found,
    )


def _cluster(reader: Reader, found: dict[str, Any]) -> None:
    version = reader.learn("kubernetes_version", lambda: reader.get("/version"), None) or {}
    found["kubernetes_version"] = version.get("gitVersion", "")
    found["api_ahead_seconds"] = reader.server_clock()

    lease_path = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases"
    listed = reader.learn("node_clocks", lambda: reader.list(lease_path), ())
    leases = {lease["metadata"]["name"]: lease for lease in listed}

    def nodes() -> tuple[Any, ...]:
        return tuple(node_of(node, leases.get(node["metadata"]["name"])) for node in reader.list("/api/v1/nodes"))

    found["nodes"] = reader.learn("nodes", nodes, ())


def _permissions(reader: Reader, found: dict[str, Any]) -> None:
    """What the API server says this user may do; asking needs no permission."""

    def ask(what: str) -> bool:
        verb, kind = what.split()
        attributes = {"verb": verb, "group": _KINDS[kind].group, "resource": _KINDS[kind].plural}
        review = {
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SelfSubjectAccessReview",
            "spec": {"resourceAttributes": attributes},
        }
        answer = reader.request("POST", "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", body=review)
        return bool(answer["status"]["allowed"])

    def all_of_them() -> dict[str, bool]:
        questions = [*(f"create {kind}" for kind in CREATE), *(f"get {kind}" for kind in READ)]
        with ThreadPoolExecutor(PARALLEL) as pool:
            try:
                return dict(zip(questions, pool.map(ask, questions), strict=True))
            except Refused as error:
                raise Unlearned(str(error)) from None

    found["allowed"] = reader.learn("allowed", all_of_them, {})


def _existing(reader: Reader, found: dict[str, Any], expected: list[Json]) -> None:
    compared = compare(reader, expected)
    found["expected"] = tuple(ref(manifest) for manifest in expected)
    found["missing"], found["altered"], found["unread"] = frozenset(compared.missing), compared.altered, compared.unread


def _control_plane(reader: Reader, client: Client, found: dict[str, Any], scope: Scope) -> None:
    home = f"/api/v1/namespaces/{scope.namespace}"
    _values(reader, found, home)
    values: Values | None = found["values"]
    expected = expected_objects(values) if values is not None else []
    own = [manifest for manifest in expected if not _of_extension(manifest)]
    _existing(reader, found, own)
    image = (values or Values()).image.name
    deployments = f"/apis/apps/v1/namespaces/{scope.namespace}/deployments"
    found["components"] = reader.learn(
        "components", lambda: tuple(component_of(found) for found in reader.list(deployments)), ()
    )
    pods = reader.learn("pods", lambda: tuple(pod_of(pod, image) for pod in reader.list(f"{home}/pods")), ())
    found["pods"] = tuple(_explained(reader, pod, f"{home}/pods/{pod.name}/log") for pod in pods)
    _identity(reader, found, home)
    found["served"] = served(client.config, scope.namespace, found["pods"], values or Values())
    found["webhooks"] = reader.learn("webhooks", lambda: webhook_facts.learn(reader, scope.namespace, expected), ())
    found["viz"] = reader.learn("viz", lambda: _viz(reader, client, scope, expected, image), None)


def _explained(reader: Reader, pod: Pod, log: str) -> Pod:
    """A pod whose containers end again and again says why in its log, mostly in the last line."""
    if "exit code" not in pod.trouble:
        return pod
    waiting = [name for name, ready in pod.containers.items() if not ready]
    said = [f"{name} says: {line}" for name in waiting if (line := reader.last_line(log, name))]
    return replace(pod, trouble="; ".join([pod.trouble, *said]))


def _values(reader: Reader, found: dict[str, Any], home: str) -> None:
    config = reader.learn("values", lambda: reader.get(f"{home}/configmaps/{CONFIG_MAP}"), None)
    found["values"], found["values_problem"] = None, ""
    if config is None:
        return
    text = (config.get("data") or {}).get(CONFIG_KEY)
    if text is None:
        found["values_problem"] = f"has no key {CONFIG_KEY}"
        return
    try:
        found["values"] = load_values(text)
    except InvalidValues as error:
        found["values_problem"] = str(error)


def _identity(reader: Reader, found: dict[str, Any], home: str) -> None:
    anchors = reader.learn("anchors_pem", lambda: reader.get(f"{home}/configmaps/{TRUST_ROOTS}"), None)
    found["anchors_pem"] = ((anchors or {}).get("data") or {}).get(TRUST_ROOTS_KEY)
    issuer = reader.learn("issuer_pem", lambda: reader.get(f"{home}/secrets/{ISSUER}"), None)
    found["issuer_pem"], found["issuer_key_matches"] = secret_pem(issuer)


def _addresses(reader: Reader, found: dict[str, Any]) -> None:
    """Whose addresses must be within `clusterNetworks`."""

    def pods() -> dict[str, str]:
        every = map(pod_of, reader.list("/api/v1/pods", fieldSelector="status.phase=Running"))
        return {pod.ip: f"pod {pod.place}" for pod in every if pod.ip}

    def services() -> dict[str, str]:
        every = map(service_of, reader.list("/api/v1/services"))
        return {service.ip: f"service {service.namespace}/{service.name}" for service in every if service.ip}

    found["pod_ips"] = reader.learn("pod_ips", pods, {})
    found["service_ips"] = reader.learn("service_ips", services, {})


def _viz(reader: Reader, client: Client, scope: Scope, expected: list[Json], image: str) -> Viz | None:
    wanted = [manifest for manifest in expected if _of_extension(manifest)]
    if not wanted:
        return None
    missing = compare(reader, wanted).missing
    home = f"namespaces/{scope.viz_namespace}"
    components = tuple(component_of(found) for found in reader.list(f"/apis/apps/v1/{home}/deployments"))
    pods = tuple(pod_of(pod, image) for pod in reader.list(f"/api/v1/{home}/pods"))
    answer = ""
    try:
        proxy_get(client, scope.viz_namespace, "services", "viz:8084", "/", timeout=5.0)
    except ProxyFailed as error:
        answer = str(error)
    return Viz(components=components, pods=pods, missing=tuple(sorted(missing)), answer=answer)


def _of_extension(manifest: Json) -> bool:
    return EXTENSION in (manifest["metadata"].get("labels") or {})


_KINDS = {kind.name: kind for kind in KINDS}
