"""Failure drills on the mesh itself: its parts are killed, cut off and rotated under steady traffic.

First with certificates of a day, for identity can sign nothing while the API server is away; then with certificates of
seconds, so that a rotation is over in a minute. What is awaited is what users are promised: no request fails but
those that were on their way to a pod that was killed.

The last drill takes the mesh away and installs it anew; in a cluster that is not the tests' own, the values, trust
anchors and issuer of before are put back afterwards.

One file, because all drills share one cluster, one shop and its traffic.
"""

from __future__ import annotations

import base64
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from lightkube import Client

from mesh.control.injector.__main__ import CONFIGURATION
from mesh.control.injector.__main__ import SECRET as SERVED
from mesh.control.webhook.certificate import LIFETIME_SECONDS, RENEW_LEFT, Certificate, issue, problem
from mesh.deploy.apply import apply_mesh, remove
from mesh.deploy.installed import read_installed
from mesh.deploy.objects import crd_objects, install_objects
from mesh.deploy.owned import owned_objects
from mesh.deploy.paths import CRD, DEPLOYMENT, SECRET
from mesh.kube.client import connect, http_of
from tests.e2e.kind.drill_shop import (
    ANCHORS,
    COUNTED,
    LEAF_EXPIRES,
    LEAF_REFRESHED,
    SHOP,
    Failure,
    Json,
    Shop,
    eventually,
    requests_to,
)

pytestmark = [pytest.mark.kind, pytest.mark.e2e, pytest.mark.timeout(600)]

SHORT = ("identity.issuer.issuanceLifetime=30s", "identity.issuer.clockSkewAllowance=10s")
"""40 s from the first to the last: renewed after 28, and 12 are left to do it in."""
UNMESHED = "pods that are to be injected have a proxy"
KILLED_AFTER = (
    CRD.path(None, "servers.policy.linkerd.io"),
    SECRET.path("linkerd", "linkerd-identity-issuer"),
    DEPLOYMENT.path("linkerd", "linkerd-identity"),
    DEPLOYMENT.path("linkerd", "linkerd-destination"),
)
"""One install each, which goes on with what the one before has left; tests/mesh/deploy has all points, one by one."""
COMPONENTS = ("identity", "destination", "proxy-injector")
ANY = "linkerd.io/control-plane-component"
IDENTITY, INJECTOR = f"{ANY}=identity", f"{ANY}=proxy-injector"
CLIENT, RENEWING = "client", "client-renewing"
DEAD_SECONDS = 2.0


@pytest.fixture(scope="module")
def shop(kind_mesh: str, kind_kubeconfig: str, kind_images: str) -> Iterator[Shop]:
    shop = Shop(kind_mesh, kind_kubeconfig, kind_images)
    client = connect(kind_mesh, kind_kubeconfig)
    before = read_installed(client)
    try:
        shop.open()
        yield shop
    finally:
        shop.close()
        remove(client, owned_objects(client))
        if "GAMEDAY_KIND_CLUSTER" in os.environ:  # else the next module that needs a mesh installs one
            apply_mesh(client, crd_objects(before.values), install_objects(before.values, before.credentials))
        client.close()


@pytest.fixture(scope="module")
def renewing(shop: Shop) -> Shop:
    """The mesh with certificates of seconds and an injector that must not be missed, upgraded under traffic."""
    start = time.time()
    settings = [*SHORT, "identity.issuer.minRefresh=2s", "webhookFailurePolicy=Fail"]
    shop.mesh("upgrade", "--apply", *(word for setting in settings for word in ("--set", setting)))
    # Its own certificate, of a day still, would hold the old anchor in the rotation.
    shop.kubectl("-n", "linkerd", "rollout", "restart", "deploy/linkerd-proxy-injector")
    shop.control_plane_back()
    shop.unharmed(CLIENT, start)
    return shop


# ---- with certificates of a day


@pytest.mark.parametrize("kind", COUNTED)
def test_no_request_goes_to_a_dead_endpoint_for_more_than_two_seconds(shop: Shop, kind: str) -> None:
    """The pod that answers most of a kind is killed with its proxy."""
    start = time.time() - 5.0
    shop.kubectl("-n", SHOP, "rollout", "status", "deploy/web", "--timeout=120s")
    pods = {pod["metadata"]["name"]: pod["status"]["podIP"] for pod in shop.webs()}
    answered = shop.traffic(CLIENT, start).answered
    victim, survivor = sorted(pods, key=lambda name: answered[f"{kind} {name}"], reverse=True)
    assert answered[f"{kind} {victim}"] > 0
    killed = time.time()
    shop.kubectl("-n", SHOP, "delete", "pod", victim, "--force", "--grace-period=0", "--wait=false")
    time.sleep(max(0.0, killed + DEAD_SECONDS - time.time()))
    until_then = requests_to(shop.series(CLIENT), pods[victim])
    time.sleep(3.0)
    assert requests_to(shop.series(CLIENT), pods[victim]) == until_then
    traffic = shop.traffic(CLIENT, killed)
    print(
        f"{kind}: {len(traffic.failures)} failed, the last sent {_last(traffic.failures, killed):.2f} s after the kill"
    )
    late = [failure for failure in traffic.failures if failure.sent > killed + DEAD_SECONDS]
    assert not late, late
    assert traffic.answered[f"{kind} {survivor}"] > 5


def _last(failures: list[Failure], since: float) -> float:
    return max((failure.sent - since for failure in failures), default=0.0)


def test_half_a_minute_without_the_api_server_is_not_noticed(shop: Shop, kind_cluster: str) -> None:
    shop.kubectl("-n", SHOP, "rollout", "status", "deploy/web", "--timeout=120s")
    before, containers = {pod["metadata"]["name"] for pod in shop.webs()}, shop.control_plane_containers()
    start = time.time()
    with _api_server_stopped(f"{kind_cluster}-control-plane"):
        time.sleep(30.0)
    back = eventually(lambda: shop.tried("get", "--raw", "/readyz", seconds=20).returncode == 0, 60, "the API server")
    # Requests to `seldom` are the control plane's to answer: in that half minute from what it knows.
    traffic = shop.unharmed(CLIENT, start, *COUNTED, "seldom")
    assert traffic.total("seldom") >= 3

    shop.kubectl("-n", SHOP, "delete", "pod", sorted(before)[0], "--wait=false")
    news = time.time()

    def newcomer_answers() -> bool:
        names = {pod["metadata"]["name"] for pod in shop.webs()} - before
        answered = shop.traffic(CLIENT, news).answered
        return any(f"http {name}" in answered for name in names)

    took = eventually(newcomer_answers, 120, "a new pod is made, certified and found")
    print(f"answers {back:.1f} s after the outage, a new pod serves {took:.1f} s after it was called for")
    shop.unharmed(CLIENT, start, *COUNTED, "seldom")
    assert shop.control_plane_containers() == containers


@contextmanager
def _api_server_stopped(node: str) -> Iterator[None]:
    """It keeps its connections and answers nothing: worse than one that refuses."""
    pid = _in_node(node, "pgrep", "-x", "kube-apiserver")
    _in_node(node, "kill", "-STOP", pid)
    try:
        yield
    finally:
        _in_node(node, "kill", "-CONT", pid)


def _in_node(node: str, *command: str) -> str:
    done = subprocess.run(["docker", "exec", node, *command], capture_output=True, text=True, check=True, timeout=30)
    return done.stdout.strip()


def test_without_the_injector_pods_start_unmeshed_and_check_says_so(shop: Shop) -> None:
    with _no_injector(shop):
        shop.client("plain")
        assert not _is_meshed(shop, "plain")
        assert shop.traffic("plain", time.time() - 1).answered  # the policy lets it in
        said = _against(shop)
        assert "linkerd-proxy-injector" in said["control plane replica sets are ready"]
        assert "proxy-injector webhook does its work (dry run)" in said
        assert f"{SHOP}/plain" in said[UNMESHED]
    # The injector is back, and the pod is still without a proxy.
    assert UNMESHED in _against(shop)
    shop.kubectl("-n", SHOP, "delete", "pod", "plain", "--force", "--grace-period=0")
    shop.client("plain")
    assert _is_meshed(shop, "plain")
    shop.kubectl("-n", SHOP, "delete", "pod", "plain", "--force", "--grace-period=0")


@contextmanager
def _no_injector(shop: Shop) -> Iterator[None]:
    def scaled(replicas: int) -> None:
        shop.kubectl("-n", "linkerd", "scale", "deploy/linkerd-proxy-injector", f"--replicas={replicas}")

    def pods() -> list[str]:
        return shop.kubectl("-n", "linkerd", "get", "pods", "-l", INJECTOR, "-o", "name").split()

    scaled(0)
    shop.kill_control_plane(INJECTOR)
    eventually(lambda: not pods(), 60, "the injector ends")
    try:
        yield
    finally:
        scaled(1)
        shop.control_plane_back()


def _is_meshed(shop: Shop, pod: str) -> bool:
    spec = shop.get("-n", SHOP, "pod", pod)["spec"]
    return "linkerd-proxy" in [container["name"] for container in spec.get("initContainers", ())]


def _against(shop: Shop) -> dict[str, str]:
    """Claim → text of what `check --proxy` has against the mesh, warnings included."""
    document = shop.check("--proxy", "-n", SHOP)
    checks = [check for category in document["categories"] for check in category["checks"]]
    return {check["description"]: check["error"] for check in checks if check["result"] != "success"}


# ---- with certificates of seconds


def test_a_control_plane_killed_in_an_applications_rollout_costs_no_request(renewing: Shop) -> None:
    shop, start = renewing, time.time()
    before = {pod["metadata"]["name"] for pod in shop.webs()}
    shop.kubectl("-n", SHOP, "rollout", "restart", "deploy/web")
    eventually(lambda: any(pod["metadata"]["name"] not in before for pod in shop.webs()), 30, "the rollout begins")
    shop.kill_control_plane()
    shop.kubectl("-n", SHOP, "rollout", "status", "deploy/web", "--timeout=180s", seconds=190)
    print(f"rolled out {time.time() - start:.1f} s after its start")
    shop.control_plane_back()
    pods = [pod["metadata"]["name"] for pod in shop.webs()]
    assert len(pods) == 2
    assert before.isdisjoint(pods)
    assert all(_is_meshed(shop, pod) for pod in pods)
    time.sleep(2.0)
    shop.unharmed(CLIENT, start)


@pytest.mark.parametrize("point", ["new pods made, not ready", "a new pod ready, old ones terminating"])
def test_pods_killed_in_a_rollout_of_the_control_plane_cost_no_request(renewing: Shop, point: str) -> None:
    shop, start = renewing, time.time()
    old = set(_control_plane_pods(shop))
    shop.kubectl("-n", "linkerd", "rollout", "restart", *(f"deploy/linkerd-{name}" for name in COMPONENTS))
    if point == "new pods made, not ready":
        eventually(lambda: len(set(_control_plane_pods(shop)) - old) == len(COMPONENTS), 30, "all new pods are made")
        found = _control_plane_pods(shop)
        victims = [name for name in found if name not in old]
        assert not any(_is_ready(found[name]) for name in victims), "too late"
        _kill(shop, *victims)
    else:

        def each_is_killed_as_it_ends() -> bool:
            found = _control_plane_pods(shop)
            _kill(shop, *(name for name in old & set(found) if "deletionTimestamp" in found[name]["metadata"]))
            return old.isdisjoint(found)

        eventually(each_is_killed_as_it_ends, 90, "no old pod is left")
    shop.control_plane_back()
    eventually(lambda: old.isdisjoint(_control_plane_pods(shop)), 60, "the old pods are gone")
    print(f"rolled out {time.time() - start:.1f} s after its start")
    time.sleep(2.0)
    shop.unharmed(CLIENT, start, *COUNTED, "seldom")


def _control_plane_pods(shop: Shop) -> dict[str, Json]:
    components = f"{ANY} in ({','.join(COMPONENTS)})"
    return {pod["metadata"]["name"]: pod for pod in shop.get("-n", "linkerd", "pods", "-l", components)["items"]}


def _is_ready(pod: Json) -> bool:
    conditions = pod["status"].get("conditions", ())
    return any(one["type"] == "Ready" and one["status"] == "True" for one in conditions)


def _kill(shop: Shop, *pods: str) -> None:
    """Without grace; those that are gone by themselves are no matter."""
    words = ("--force", "--grace-period=0", "--wait=false", "--ignore-not-found")
    if pods:
        shop.kubectl("-n", "linkerd", "delete", "pods", *pods, *words)


def test_an_upgrade_that_is_killed_between_two_components_is_done_again_and_costs_no_request(
    renewing: Shop, kind_mesh: str, kind_kubeconfig: str
) -> None:
    shop, start, level = renewing, time.time(), ("--set", "controllerLogLevel=debug")
    client = connect(kind_mesh, kind_kubeconfig)
    path = DEPLOYMENT.path("linkerd", "linkerd-identity")
    try:
        before = http_of(client).get(path).json()["metadata"]["generation"]

        def applied() -> bool:
            return bool(http_of(client).get(path).json()["metadata"]["generation"] != before)

        _killed_once(shop.mesh_command("upgrade", "--apply", *level), applied, path)
    finally:
        client.close()
    assert "debug" not in json.dumps(shop.get("-n", "linkerd", "deploy", "linkerd-proxy-injector")), "it was over"
    shop.mesh("upgrade", "--apply", *level)
    shop.control_plane_back()
    for name in COMPONENTS:
        assert "debug" in json.dumps(shop.get("-n", "linkerd", "deploy", f"linkerd-{name}")["spec"]), name
    shop.unharmed(CLIENT, start, *COUNTED, "seldom")


@pytest.mark.parametrize("point", ["due, not sent", "TokenReview under way"])
def test_identity_killed_when_certificates_are_renewed_costs_no_request(
    renewing: Shop, kind_cluster: str, point: str
) -> None:
    shop, node = renewing, f"{kind_cluster}-control-plane"
    pods, start = _short_lived(shop), time.time()
    due = min(_due(shop, pod) for pod in pods)
    if point == "due, not sent":
        time.sleep(max(0.0, due - 0.5 - time.time()))
        killed = time.time()
        shop.kill_control_plane(IDENTITY)
    else:
        time.sleep(max(0.0, due - 0.5 - time.time()))
        with _api_server_stopped(node):  # what it is asked now hangs
            time.sleep(1.5)
            killed = time.time()
            _in_node(node, "pkill", "-KILL", "-f", "mesh.control identity")
    for pod in pods:
        eventually(lambda pod=pod: shop.metric(pod, LEAF_REFRESHED) > killed, 45, f"{pod} renews")  # type: ignore[misc]
    print(f"all certificates are new {time.time() - killed:.1f} s after identity was killed")
    shop.unharmed(RENEWING, start)
    shop.control_plane_back()


def test_the_injector_killed_when_its_new_certificate_is_written_leaves_secret_and_bundle_agreed(
    renewing: Shop,
) -> None:
    """What it finds at its start is due: it makes another at once, and is killed as soon as we see that. The points in
    between, too short to be met from here, are in tests/mesh/control/test_webhook_renewal_killed.py."""
    shop, start = renewing, time.time()
    names = ("linkerd-proxy-injector.linkerd.svc",)
    old = issue(names, now=start - LIFETIME_SECONDS * (1 - RENEW_LEFT / 2))
    parts = zip(("ca.crt", "tls.crt", "tls.key"), (old.ca, old.chain, old.key), strict=True)
    data = {name: base64.b64encode(text.encode()).decode() for name, text in parts}
    shop.kubectl("-n", "linkerd", "patch", "secret", SERVED, "--type=merge", "-p", json.dumps({"data": data}))
    shop.kill_control_plane(INJECTOR)
    eventually(lambda: _served(shop).chain != old.chain, 60, "it makes another certificate")
    shop.kill_control_plane(INJECTOR)
    new = _served(shop)
    shop.control_plane_back()
    assert problem(new, names) == ""

    def agreed() -> bool:
        webhooks = shop.get("mutatingwebhookconfiguration", CONFIGURATION)["webhooks"]
        bundles = {base64.b64decode(webhook["clientConfig"]["caBundle"]).decode() for webhook in webhooks}
        return bundles == {_served(shop).ca}

    eventually(agreed, 30, "Secret and caBundle agree")
    assert _served(shop) == new, "the second start had no need of another one"
    pod = json.dumps(shop.pod("agreed", "serve"))
    eventually(lambda: shop.tried("apply", "-f", "-", given=pod).returncode == 0, 30, "a pod is accepted")
    assert _is_meshed(shop, "agreed")
    shop.unharmed(CLIENT, start)


def _served(shop: Shop) -> Certificate:
    data = shop.get("-n", "linkerd", "secret", SERVED)["data"]
    return Certificate(*(base64.b64decode(data[name]).decode() for name in ("ca.crt", "tls.crt", "tls.key")))


def _short_lived(shop: Shop) -> list[str]:
    """The pods that have certificates of seconds: the second client, and those of `web`, restarted where need be."""
    shop.client(RENEWING)
    if any(shop.metric(pod["metadata"]["name"], LEAF_EXPIRES) > time.time() + 300 for pod in shop.webs()):
        shop.kubectl("-n", SHOP, "rollout", "restart", "deploy/web")
        shop.kubectl("-n", SHOP, "rollout", "status", "deploy/web", "--timeout=120s", seconds=130)
    return [RENEWING, *(pod["metadata"]["name"] for pod in shop.webs())]


def _due(shop: Shop, pod: str) -> float:
    """Unix second at which it asks for its next certificate."""
    refreshed, expires = shop.metric(pod, LEAF_REFRESHED), shop.metric(pod, LEAF_EXPIRES)
    return refreshed + 0.7 * (expires - refreshed)


def test_rotating_anchor_and_issuer_with_identity_killed_at_each_step_costs_no_request(
    renewing: Shop, tmp_path: Path
) -> None:
    """The three steps of docs/kubernetes.md; identity is killed as soon as each of them is written. The first client
    has a certificate of a day: it is restarted for it."""
    shop = renewing
    pods, start = [CLIENT, *_short_lived(shop)], time.time()
    (old,) = json.loads(shop.mesh("trust-anchors", "-o", "json"))
    drop = ("trust-anchors", "--drop", old["sha256"], "--apply")
    shop.mesh("create-anchor", "--out", str(tmp_path / "new"))
    shop.mesh("trust-anchors", "--add", str(tmp_path / "new/ca.crt"), "--apply")
    shop.kill_control_plane(IDENTITY)
    both = _anchors_spread(shop, pods, 2)
    new = [str(tmp_path / "new" / name) for name in ("ca.crt", "ca.key")]
    issuer = ("rotate-issuer", "--anchor-certificate", new[0], "--anchor-key", new[1], "--apply")

    shop.mesh(*issuer)
    shop.kill_control_plane(IDENTITY)
    assert f"{SHOP}/{CLIENT}" in shop.mesh(*drop, expect=2)
    rotated = time.time()
    _all_renewed(shop, pods[1:], rotated)
    # The control plane's own certificates are renewed at their own times, and hold the anchor until then.
    only = f"1 certificates in use hang from it ({SHOP}/{CLIENT})"
    eventually(lambda: only in shop.mesh(*drop, expect=2), 60, "only the certificate of a day is left")
    shop.unharmed(CLIENT, start)
    shop.kubectl("-n", SHOP, "delete", "pod", CLIENT, "--force", "--grace-period=0")

    shop.mesh(*drop)
    shop.mesh(*issuer)
    shop.kill_control_plane(IDENTITY)
    dropped, pods = time.time(), pods[1:]
    one = _anchors_spread(shop, pods, 1)
    _all_renewed(shop, pods, dropped)
    time.sleep(3.0)
    shop.unharmed(RENEWING, start)
    print(f"both anchors everywhere after {both:.1f} s, one after {one:.1f} s; all in {time.time() - start:.0f} s")
    shop.mesh("check", "--proxy", "-n", SHOP, "--wait", "30s")


def _anchors_spread(shop: Shop, pods: list[str], count: int) -> float:
    """Returns once all proxies trust that many; the seconds it took. The kubelet looks at a pod's volumes when the pod
    has changed, else once a minute: each look of ours is a change."""

    def spread() -> bool:
        for namespace in (SHOP, "linkerd"):
            shop.kubectl("-n", namespace, "annotate", "pods", "--all", "--overwrite", f"drill={time.time():.0f}")
        return all(shop.metric(pod, ANCHORS) == count for pod in pods)

    return eventually(spread, 130, f"all trust {count} anchors")


def _all_renewed(shop: Shop, pods: list[str], since: float) -> None:
    for pod in pods:
        eventually(lambda pod=pod: shop.metric(pod, LEAF_REFRESHED) > since + 1, 60, f"{pod} renews")  # type: ignore[misc]


def test_where_the_injector_must_not_be_missed_no_pod_starts_without_it(renewing: Shop) -> None:
    shop = renewing
    pod = json.dumps(shop.pod("refused", "serve"))
    with _no_injector(shop):
        refused = shop.tried("apply", "-f", "-", given=pod)
        assert refused.returncode != 0
        assert "failed calling webhook" in refused.stderr
        assert "linkerd-proxy-injector.linkerd.io" in refused.stderr
        assert len(refused.stderr.strip().splitlines()) == 1, refused.stderr
    # The webhook's Service has its new endpoint on the node a moment after the pod is ready.
    pod = json.dumps(shop.pod("accepted", "serve"))
    eventually(lambda: shop.tried("apply", "-f", "-", given=pod).returncode == 0, 30, "a pod is accepted")
    assert _is_meshed(shop, "accepted")


# ---- an install that does not get to its end


def test_an_install_that_is_killed_converges_when_it_is_done_again(
    shop: Shop, kind_mesh: str, kind_kubeconfig: str
) -> None:
    shop.close()
    client = connect(kind_mesh, kind_kubeconfig)
    try:
        remove(client, owned_objects(client))
        for point in KILLED_AFTER:
            _install_killed_at(shop, client, point)
    finally:
        client.close()
    assert not shop.kubectl("-n", "linkerd", "get", "deploy", "linkerd-proxy-injector", "--ignore-not-found")
    shop.kill_control_plane()
    assert "was interrupted" in shop.mesh("install", "--apply")
    shop.mesh("check", "--wait", "60s")


def _install_killed_at(shop: Shop, client: Client, path: str) -> None:
    """SIGKILL as soon as the cluster has that object."""
    _killed_once(shop.mesh_command("install", "--apply"), lambda: http_of(client).get(path).status_code == 200, path)


def _killed_once(command: list[str], reached: Callable[[], bool], what: str) -> None:
    """Runs it, and SIGKILLs it at that point; kubectl would look too seldom."""
    deadline = time.monotonic() + 60
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as running:
        while not reached():
            assert time.monotonic() < deadline, what
            time.sleep(0.002)
        running.send_signal(signal.SIGKILL)
        assert running.wait(10) == -signal.SIGKILL, "it was over already"
