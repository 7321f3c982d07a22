"""Objects as an API server has them, for tests."""

from __future__ import annotations

from typing import Any

Object = dict[str, Any]


def namespace(name: str = "shop", **annotations: str) -> Object:
    return {"metadata": {"name": name, "annotations": {k.replace("__", "/"): v for k, v in annotations.items()}}}


def service(name: str = "cart", ip: str = "10.96.0.10", **spec: Any) -> Object:
    ports = [{"name": "http", "port": 80, "targetPort": "http", "protocol": "TCP"}]
    return {
        "metadata": {"name": name, "namespace": "shop", "labels": {"app": name}},
        "spec": {"clusterIP": ip, "clusterIPs": [ip], "ports": ports, "selector": {"app": name}, **spec},
        "status": {"loadBalancer": {}},
    }


def pod(name: str, ip: str, *, meshed: bool = True, phase: str = "Running", **spec: Any) -> Object:
    labels = {"app": name.rpartition("-")[0]} | ({"linkerd.io/control-plane-ns": "linkerd"} if meshed else {})
    annotations = {"kubectl.kubernetes.io/restartedAt": "x"} | ({"linkerd.io/proxy-version": "1"} if meshed else {})
    containers = [{"name": "app", "image": "app:1", "ports": [{"containerPort": 8080, "name": "http"}]}]
    return {
        "metadata": {"name": name, "namespace": "shop", "labels": labels, "annotations": annotations},
        "spec": {"serviceAccountName": "cart", "containers": containers, "nodeName": "node-1", **spec},
        "status": {"phase": phase, "podIP": ip, "podIPs": [{"ip": ip}], "hostIP": "172.18.0.2"},
    }


def member(name: str, ip: str, **conditions: bool | None) -> Object:
    given = {"ready": True, "serving": True, "terminating": False, **conditions}
    return {"addresses": [ip], "conditions": given, "targetRef": {"kind": "Pod", "name": name, "namespace": "shop"}}


def endpoint_slice(*members: Object, name: str = "cart-x", port: int = 8080) -> Object:
    return {
        "metadata": {"name": name, "namespace": "shop", "labels": {"kubernetes.io/service-name": "cart"}},
        "addressType": "IPv4",
        "endpoints": list(members) or None,
        "ports": [{"name": "http", "port": port, "protocol": "TCP"}],
    }
