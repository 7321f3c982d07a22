"""The three components as real processes on a Kubernetes API: any order, outages, rotation, five hundred pods."""

from __future__ import annotations

import base64
import signal
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
import yaml

from mesh.api.messages import CertifyResponse, Endpoints, EndpointsChange
from mesh.control.credentials import load_chain
from mesh.control.names import component_name
from mesh.control.pki import Authority, create_issuer, create_trust_anchor
from mesh.control.trust_bundle import BUNDLE_KEY
from mesh.kube import kinds
from mesh.kube.permissions import ISSUER, TRUST_ROOTS
from tests.mesh.control.kube_objects import endpoint_slice, member, pod, service
from tests.mesh.control.test_control_plane_e2e import HOST, ControlPlane, Stream, _eventually
from tests.mesh.kube.fake_api import FakeApi, Object, api_thread

pytestmark = pytest.mark.e2e
CART = "/v1/destinations/cart.shop.svc.cluster.local:80"
MIB = 1 << 20


class KubernetesPlane(ControlPlane):
    """The same three processes, with an API server in place of files. A token's text is its service account."""

    def __init__(self, folder: Path, api: FakeApi) -> None:
        super().__init__(folder)
        self.api = api
        user = {"clusters": [{"name": "a", "cluster": {"server": api.url}}], "users": [{"name": "a", "user": {}}]}
        contexts = {"contexts": [{"name": "a", "context": {"cluster": "a", "user": "a"}}], "current-context": "a"}
        (folder / "kubeconfig").write_text(yaml.safe_dump(user | contexts))
        api.token_review = lambda spec: {
            "authenticated": spec["token"] != "bad",
            "audiences": spec["audiences"],
            "user": {"username": f"system:serviceaccount:{spec['token']}"},
        }
        api.put(kinds.CONFIG_MAP, self.bundle())
        api.put(kinds.NAMESPACE, {"metadata": {"name": "linkerd"}})
        api.put(kinds.NAMESPACE, {"metadata": {"name": "shop", "annotations": {"linkerd.io/inject": "enabled"}}})
        api.put(kinds.SERVICE, service())
        api.put(kinds.POD, pod("cart-0", "10.244.0.5"))
        api.put(kinds.POD, pod("cart-1", "10.244.0.6"))
        self.slice("cart-0")

    def bundle(self, *anchors: Authority) -> Object:
        text = "".join(anchor.certificate_pem for anchor in anchors or (self.anchor,))
        (self.folder / "anchors.pem").write_text(text)  # as the kubelet does with the mounted ConfigMap
        return {"metadata": {"name": TRUST_ROOTS, "namespace": "linkerd"}, "data": {BUNDLE_KEY: text}}

    def put_issuer(self, issuer: Authority) -> None:
        data = {"tls.crt": issuer.certificate_pem, "tls.key": issuer.key_pem}
        encoded = {name: base64.b64encode(text.encode()).decode() for name, text in data.items()}
        self.api.put(kinds.SECRET, {"metadata": {"name": ISSUER, "namespace": "linkerd"}, "data": encoded})

    def slice(self, *names: str) -> None:
        members = [member(name, f"10.244.0.{5 + int(name[-1])}") for name in names]
        self.api.put(kinds.ENDPOINT_SLICE, endpoint_slice(*members))

    def arguments(self, component: str) -> list[str]:
        listen, admin = self.ports[component]
        found = [component, "--kubernetes", "--kubeconfig", str(self.folder / "kubeconfig")]
        found += ["--listen", f"{HOST}:{listen}", "--admin", f"{HOST}:{admin}"]
        found += ["--trust-anchors", str(self.folder / "anchors.pem"), "--controller-namespace", "linkerd"]
        if component == "identity":
            return [*found, "--leaf-lifetime", "30s", "--clock-skew", "1s"]
        token = self.folder / f"{component}.token"
        token.write_text("linkerd:linkerd-destination")
        found += ["--identity-addr", f"localhost:{self.ports['identity'][0]}", "--token", str(token)]
        return [*found, "--local-name", component_name("destination"), "--min-refresh", "1s"]

    def connect(self, component: str, context: ssl.SSLContext) -> ssl.SSLSocket:
        import socket

        name = component_name("identity" if component == "identity" else "destination")
        connection = socket.create_connection((HOST, self.ports[component][0]), timeout=5)
        return context.wrap_socket(connection, server_hostname=name)

    def client(self) -> ssl.SSLContext:
        status, body, key = self.certify("shop:cart")
        assert status == 200, body
        response = msgspec.json.decode(body, type=CertifyResponse)
        context = self.context()
        load_chain(context, response.leaf + "".join(response.intermediates), key)
        return context

    def launch(self, *components: str) -> None:
        for component in components:
            self.processes[component] = subprocess.Popen(
                [sys.executable, "-m", "mesh.control", *self.arguments(component)], stderr=subprocess.PIPE, text=True
            )
        for component in components:
            _eventually(lambda c=component: self.admin(c, "/live")[0] == 200, 15.0)  # type: ignore[misc]

    def reasons(self) -> list[str]:
        return [event["reason"] for event in self.api.all(kinds.EVENT)]

    def ready(self, component: str) -> bool:
        return self.admin(component, "/ready")[0] == 200


@pytest.fixture
def plane(tmp_path: Path) -> Iterator[KubernetesPlane]:
    with api_thread() as api:
        made = KubernetesPlane(tmp_path, api)
        try:
            yield made
        finally:
            made.stop()


def test_from_an_empty_cluster_to_serving_through_an_outage_and_a_rotation(plane: KubernetesPlane) -> None:
    api = plane.api
    # Nothing works yet, and everything waits: no issuer, an API server that refuses.
    api.down = True
    plane.launch("destination", "policy", "identity")
    time.sleep(0.5)
    assert not any(plane.ready(component) for component in plane.processes)
    api.down = False
    _eventually(lambda: "IssuerValidationFailed" in plane.reasons(), 10.0)
    assert not plane.ready("identity")
    plane.put_issuer(create_issuer(plane.anchor))
    for component in plane.processes:
        _eventually(lambda c=component: plane.ready(c), 10.0)  # type: ignore[misc]
    assert plane.certify("shop:payment")[0] == 403
    assert plane.certify("bad")[0] == 401

    context = plane.client()
    stream = plane.watch("destination", CART, context)
    snapshot = stream.next()
    assert isinstance(snapshot, Endpoints)
    assert [endpoint.pod for endpoint in snapshot.endpoints] == ["cart-0"]
    stream.next()
    assert plane.watch("policy", "/v1/inbound/shop/cart-0/8080", context).next() is not None
    _eventually(lambda: {"IssuerUpdated", "IssuedLeafCertificate"} <= set(plane.reasons()), 5.0)
    _eventually(lambda: api.get(kinds.CONFIG_MAP, "shop", TRUST_ROOTS) is not None, 10.0)

    # The API server goes away: what is known is served, and /ready stays yes.
    api.down = True
    api._loop.call_soon_threadsafe(api.drop_watches)  # type: ignore[union-attr]
    _eventually(lambda: plane.metric("destination", "kube_informer_failures_total") > 10, 10.0)
    again = plane.watch("destination", CART, context).next()
    assert isinstance(again, Endpoints)
    assert len(again.endpoints) == 1
    assert plane.certify("shop:cart")[0] == 502, "a token cannot be reviewed without it"
    assert all(plane.ready(component) for component in plane.processes)
    plane.slice("cart-0", "cart-1")
    api.down = False
    returned = time.monotonic()
    change = stream.next()
    assert isinstance(change, EndpointsChange)
    assert [endpoint.pod for endpoint in change.add] == ["cart-1"]
    assert time.monotonic() - returned < 6.0

    # Anchor and issuer rotate: both anchors, the new issuer, the new anchor alone. Open streams live through it.
    new_anchor = create_trust_anchor()
    new_issuer = create_issuer(new_anchor)
    api.put(kinds.CONFIG_MAP, plane.bundle(plane.anchor, new_anchor))
    plane.put_issuer(new_issuer)
    _eventually(lambda: plane.metric("identity", 'issuer_updates_total{result="updated"') == 2, 10.0)
    old_anchor, plane.anchor = plane.anchor, new_anchor
    _eventually(lambda: _accepts(plane, "identity"), 10.0)
    context = plane.client()
    _eventually(lambda: plane.admin("destination", "/live")[0] == 200 and _serves_new(plane, context), 75.0)
    api.put(kinds.CONFIG_MAP, plane.bundle(new_anchor))
    _eventually(
        lambda: (
            BUNDLE_KEY in (copy := api.get(kinds.CONFIG_MAP, "shop", TRUST_ROOTS) or {"data": {}})["data"]
            and old_anchor.certificate_pem not in copy["data"][BUNDLE_KEY]
        ),
        10.0,
    )
    time.sleep(3.5)  # the components' own look at their file
    plane.slice("cart-1")
    change = stream.next()
    assert isinstance(change, EndpointsChange)
    assert change.remove == ("10.244.0.5:8080",)
    assert plane.watch("policy", "/v1/inbound/shop/cart-0/8080", context).next() is not None

    plane.processes["identity"].send_signal(signal.SIGTERM)
    assert plane.processes["identity"].wait(5) == 0
    lease = api.get(kinds.LEASE, "linkerd", "linkerd-identity")
    assert lease is not None
    assert lease["spec"]["holderIdentity"] == "", "given up on the way out"


def _accepts(plane: KubernetesPlane, component: str) -> bool:
    """Whether a client that trusts the current anchor alone gets a handshake."""
    try:
        plane.connect(component, plane.context()).close()
    except (ssl.SSLError, OSError):
        return False
    return True


def _serves_new(plane: KubernetesPlane, context: ssl.SSLContext) -> bool:
    try:
        return plane.watch("destination", CART, context).next() is not None
    except (ssl.SSLError, OSError):
        return False


def test_five_hundred_pods_churned_cost_bounded_memory_and_no_stall(plane: KubernetesPlane) -> None:
    api = plane.api
    plane.put_issuer(create_issuer(plane.anchor))
    names = [f"s{n}" for n in range(25)]
    for number, name in enumerate(names):
        named = service(name, f"10.96.1.{number}")
        api.put(kinds.SERVICE, named)
        _put_slice(api, number, range(20))
        for p in range(20):
            one = pod(f"{name}-{p}", f"10.244.{number + 1}.{p}", status_extra="x" * 2000)
            api.put(kinds.POD, one)
    plane.launch("identity", "destination", "policy")
    _eventually(lambda: plane.ready("destination") and plane.ready("policy"), 20.0)
    context = plane.client()
    watches = [
        plane.watch("destination", f"/v1/destinations/{name}.shop.svc.cluster.local:80", context) for name in names
    ]
    inbound = [plane.watch("policy", f"/v1/inbound/shop/{name}-{p}/8080", context) for name in names for p in range(4)]
    known: list[dict[str, str]] = []
    for stream in watches:
        first = stream.next()
        assert isinstance(first, Endpoints)
        assert len(first.endpoints) == 20
        known.append({endpoint.address: endpoint.pod for endpoint in first.endpoints})
        stream.next()
    for stream in inbound:
        assert stream.next() is not None
    probe = plane.watch("destination", CART, context)
    probe.next()
    probe.next()

    took: list[float] = []
    for round_ in range(20):
        for number in range(25):
            _put_slice(api, number, [p for p in range(20) if p != round_])
            changed = pod(f"s{number}-{round_}", f"10.244.{number + 1}.{round_}", status_extra=str(round_))
            changed["metadata"]["labels"]["round"] = str(round_)
            api.put(kinds.POD, changed)
        written = time.monotonic()
        plane.slice(*(["cart-0", "cart-1"] if round_ % 2 == 0 else ["cart-0"]))
        assert isinstance(probe.next(), EndpointsChange)
        took.append(time.monotonic() - written)
    took.sort()
    rss = {name: plane.metric(name, "process_resident_memory_bytes") / MIB for name in plane.processes}
    cpu = {name: plane.metric(name, "process_cpu_seconds_total") for name in plane.processes}
    print(f"propagation p50 {took[10]:.3f} s, max {took[-1]:.3f} s; MiB {rss}; CPU s {cpu}")
    assert took[-1] < 2.0, took
    assert max(rss.values()) < 120, rss
    for number, (stream, endpoints) in enumerate(zip(watches, known, strict=True)):
        _follow(stream, endpoints, {f"s{number}-{p}" for p in range(19)})
    assert plane.metric("destination", "control_stream_overflow_total") == 0
    assert plane.metric("destination", "kube_informer_stalls_total") == 0


def _put_slice(api: FakeApi, number: int, living: range | list[int]) -> None:
    members = [member(f"s{number}-{p}", f"10.244.{number + 1}.{p}") for p in living]
    made = endpoint_slice(*members, name=f"s{number}-x")
    made["metadata"]["labels"]["kubernetes.io/service-name"] = f"s{number}"
    api.put(kinds.ENDPOINT_SLICE, made)


def _follow(stream: Stream, known: dict[str, str], expected: set[str]) -> None:
    """Applies changes until the pods are those `expected`; the stream's timeout ends it otherwise."""
    while set(known.values()) != expected:
        message = stream.next()
        assert isinstance(message, EndpointsChange)
        for address in message.remove:
            del known[address]
        known |= {endpoint.address: endpoint.pod for endpoint in message.add}


@pytest.mark.parametrize(
    ("component", "extra", "expected"),
    [
        ("identity", ["--issuer", "/x"], "--issuer: takes no part with --kubernetes"),
        ("destination", ["--registry", "/x"], "--registry: takes no part with --kubernetes"),
        ("policy", ["--controller-namespace", "No"], "--controller-namespace: 'No' is not a namespace name"),
    ],
)
def test_flags_that_contradict_each_other_are_one_line(
    plane: KubernetesPlane, component: str, extra: list[str], expected: str
) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "mesh.control", *plane.arguments(component), *extra], capture_output=True, text=True
    )
    assert done.returncode == 2
    assert expected in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_outside_of_a_cluster_the_reason_is_one_line(plane: KubernetesPlane) -> None:
    arguments = [a for a in plane.arguments("identity") if a not in ("--kubeconfig", str(plane.folder / "kubeconfig"))]
    done = subprocess.run([sys.executable, "-m", "mesh.control", *arguments], capture_output=True, text=True)
    assert done.returncode == 2
    assert "no service account in /var/run/secrets/kubernetes.io/serviceaccount" in done.stderr
