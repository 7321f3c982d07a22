"""A node is drained, and a leader killed, in a cluster of three nodes with the mesh installed as `--ha` has it.

The client stands on a node of its own, one `web` on each worker. What is awaited: the drain ends without force, no
component of the control plane ever has fewer than two replicas, nothing is sent to a pod two seconds after it was asked
to leave, and no request fails; the grace that Kubernetes gives a pod is enough for those under way.
"""

from __future__ import annotations

import subprocess
import time
from typing import Any

import pytest

from tests.e2e.kind.drill_shop import SHOP, Shop, eventually, requests_to

pytestmark = [pytest.mark.kind, pytest.mark.e2e, pytest.mark.timeout(600)]

CLIENT = "client"
COMPONENTS = ("identity", "destination", "proxy-injector")
REPLICAS = 3
GONE_SECONDS = 2.0
LEADERS = {"linkerd-identity": ("identity", 9990), "linkerd-policy-controller": ("destination", 9997)}
"""Lease → (component, admin port of the container that takes part)."""
APART = {
    "podAntiAffinity": {
        "requiredDuringSchedulingIgnoredDuringExecution": [
            {"labelSelector": {"matchLabels": {"app": "web"}}, "topologyKey": "kubernetes.io/hostname"}
        ]
    },
    "nodeAffinity": {
        "preferredDuringSchedulingIgnoredDuringExecution": [
            {
                "weight": 100,
                "preference": {
                    "matchExpressions": [
                        {"key": "node-role.kubernetes.io/control-plane", "operator": "DoesNotExist"},
                    ]
                },
            }
        ]
    },
}


class WideShop(Shop):
    """Its pods have places."""

    def __init__(self, cluster: str, kubeconfig: str, image: str) -> None:
        super().__init__(f"kind-{cluster}", kubeconfig, image)
        self.home = f"{cluster}-control-plane"

    def pod(self, name: str, *command: str) -> dict[str, Any]:
        made = super().pod(name, *command)
        made["spec"]["nodeSelector"] = {"kubernetes.io/hostname": self.home}
        return made

    def _web(self) -> dict[str, Any]:
        made = super()._web()
        made["spec"]["template"]["spec"]["affinity"] = APART
        return made

    def available(self) -> dict[str, int]:
        """Available replicas of each component."""
        found = {}
        for name in COMPONENTS:
            words = ("get", "deploy", f"linkerd-{name}", "-o", "jsonpath={.status.availableReplicas}")
            found[name] = int(self.kubectl("-n", "linkerd", *words) or 0)
        return found

    def nodes_of(self, component: str) -> list[str]:
        """Of its ready pods."""
        label = f"linkerd.io/control-plane-component={component}"
        pods = self.get("-n", "linkerd", "pods", "-l", label)["items"]
        return sorted(pod["spec"]["nodeName"] for pod in pods if "deletionTimestamp" not in pod["metadata"])

    def holder(self, lease: str) -> str:
        return self.kubectl("-n", "linkerd", "get", "lease", lease, "-o", "jsonpath={.spec.holderIdentity}")

    def leading(self, component: str, port: int) -> dict[str, float]:
        """What each pod of a component says of itself: does it lead?"""
        label = f"linkerd.io/control-plane-component={component}"
        found = {}
        for pod in self.get("-n", "linkerd", "pods", "-l", label)["items"]:
            name = pod["metadata"]["name"]
            done = self.tried("get", "--raw", f"/api/v1/namespaces/linkerd/pods/{name}:{port}/proxy/metrics")
            for line in done.stdout.splitlines():
                if line.startswith("leader "):
                    found[name] = float(line.split()[1])
        return found


@pytest.fixture(scope="module")
def shop(wide_cluster: tuple[str, str], built_images: list[str]) -> WideShop:
    shop = WideShop(*wide_cluster, built_images[1])
    shop.mesh("install", "--ha", "--set", "viz.enabled=false", "--apply")
    shop.open()
    return shop


def test_replicas_stand_on_nodes_of_their_own(shop: WideShop) -> None:
    for component in COMPONENTS:
        nodes = shop.nodes_of(component)
        assert len(nodes) == len(set(nodes)) == REPLICAS, (component, nodes)
    shop.mesh("check", "--wait", "60s")


@pytest.mark.parametrize("lease", LEADERS)
def test_when_the_leader_is_killed_another_one_acts_and_never_two(shop: WideShop, lease: str) -> None:
    component, port = LEADERS[lease]
    eventually(lambda: sum(shop.leading(component, port).values()) == 1.0, 40, f"one {component} leads")
    first = shop.holder(lease)
    (pod,) = (name for name, leads in shop.leading(component, port).items() if leads)
    assert first.startswith(f"{pod}-")  # and the number of its process
    shop.kubectl("-n", "linkerd", "delete", "pod", pod, "--force", "--grace-period=0", "--wait=false")
    seen: list[float] = []

    def another_leads() -> bool:
        leaders = shop.leading(component, port)
        seen.append(sum(leaders.values()))
        return shop.holder(lease) not in ("", first) and sum(leaders.values()) == 1.0

    took = eventually(another_leads, 60, "another one leads")
    print(f"{lease}: another one leads {took:.1f} s after its holder was killed")
    assert max(seen) <= 1.0
    shop.control_plane_back()


def test_a_drained_node_costs_no_request_and_no_quorum(shop: WideShop) -> None:
    shop.kubectl("-n", SHOP, "rollout", "status", "deploy/web", "--timeout=120s")
    victim = next(pod for pod in shop.webs() if pod["spec"]["nodeName"] != shop.home)
    name, node, address = victim["metadata"]["name"], victim["spec"]["nodeName"], victim["status"]["podIP"]
    start = time.time()
    eventually(lambda: requests_to(shop.series(CLIENT), address) > 5, 30, "it is sent requests")
    fewest = shop.available()
    assert fewest == dict.fromkeys(COMPONENTS, REPLICAS)

    def leaving() -> bool:
        found = shop.tried("-n", SHOP, "get", "pod", name, "-o", "jsonpath={.metadata.deletionTimestamp}")
        return found.returncode != 0 or found.stdout != ""

    options = ("--ignore-daemonsets", "--delete-emptydir-data", "--timeout=150s")
    command = shop.kubectl_command("drain", node, *options)
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as drain:
        try:
            eventually(leaving, 60, "its web is asked to leave")
            time.sleep(GONE_SECONDS)
            until_then = requests_to(shop.series(CLIENT), address)
            while drain.poll() is None:
                fewest = {component: min(fewest[component], now) for component, now in shop.available().items()}
                assert time.time() < start + 200
            assert requests_to(shop.series(CLIENT), address) == until_then
        finally:
            drain.kill()
        said = drain.communicate()[0]
    assert drain.returncode == 0, said
    print(f"drained in {time.time() - start:.0f} s; fewest replicas meanwhile: {fewest}")
    assert min(fewest.values()) >= REPLICAS - 1, fewest
    assert all(pod["spec"]["nodeName"] != node for pod in shop.webs())

    shop.kubectl("-n", SHOP, "rollout", "status", "deploy/web", "--timeout=120s")
    newcomer = next(pod for pod in shop.webs() if pod["metadata"]["name"] != name)
    assert any(c["name"] == "linkerd-proxy" for c in newcomer["spec"]["initContainers"])
    shop.unharmed(CLIENT, start)
    shop.kubectl("uncordon", node)
    back = eventually(lambda: shop.available() == dict.fromkeys(COMPONENTS, REPLICAS), 120, "all replicas are back")
    print(f"all replicas again {back:.0f} s after the node is back")
    shop.unharmed(CLIENT, start)
