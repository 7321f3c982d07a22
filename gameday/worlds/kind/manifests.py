"""What a run puts into the cluster beside the mesh, as plain Kubernetes objects. Pure; `world.py` applies them in
order.

    run_objects      namespace gameday: the ledger's copy and the reaper Job
    app_objects      the topology: namespaces with injection on, Deployments, Services
    load_objects     namespace load: the agent, and workers where the load takes several pods

Pods satisfy the PodSecurity level `restricted`; only what the injector adds (its init container) needs more. Probes go
to the workload's admin port, past the proxy: a probe through it would be counted as a request of the mesh.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from chaos.mirror import CONFIG_MAP
from gameday.worlds.kind.names import (
    AGENT,
    AGENT_IMAGE,
    AGENT_PORT,
    APP_CONTAINER,
    APP_FILES,
    APP_MOUNT,
    LOAD_NAMESPACE,
    LOAD_SERVICE,
    LOCUST_PORT,
    PROXY_ADMIN_PORT,
    REAPER,
    RUN_LABEL,
    RUN_NAMESPACE,
    SERVICE_LABEL,
    SPOOL_MOUNT,
    WORKLOAD_ADMIN_PORT,
)
from mesh.deploy.labels import NAMESPACE as MESH_NAMESPACE
from scenarios.model import Application, AppService, Scenario

Object = dict[str, Any]

MAX_APP_BYTES = 900_000
"""A ConfigMap holds a mebibyte."""
UID = 2104
"""Of the agent image."""
GRACE_SECONDS = 5
REAPER_SECONDS = 6 * 3600
_RBAC = "rbac.authorization.k8s.io"
_SECURITY: Object = {
    "allowPrivilegeEscalation": False,
    "readOnlyRootFilesystem": True,
    "runAsNonRoot": True,
    "runAsUser": UID,
    "capabilities": {"drop": ["ALL"]},
    "seccompProfile": {"type": "RuntimeDefault"},
}


class AppTooLarge(ValueError):
    """What lies beside the application file does not fit into a ConfigMap; one line."""


# ---- the run itself -------------------------------------------------------------------------------------------------


def run_objects(run: str) -> list[Object]:
    """The namespace, the ledger's copy, and the reaper with what it may do."""
    rules = [
        {"apiGroups": [""], "resources": ["configmaps"], "verbs": ["get", "patch"]},
        {"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list", "delete", "deletecollection"]},
        {"apiGroups": [""], "resources": ["pods/proxy"], "verbs": ["get", "create", "update", "delete"]},
        {"apiGroups": [""], "resources": ["pods/ephemeralcontainers"], "verbs": ["patch"]},
        {"apiGroups": [""], "resources": ["services"], "verbs": ["patch"]},
        {"apiGroups": ["apps"], "resources": ["deployments", "deployments/scale"], "verbs": ["get", "patch"]},
        {"apiGroups": ["policy.linkerd.io"], "resources": ["httproutes"], "verbs": ["get", "delete"]},
    ]
    command = ["python", "-m", "chaos.cluster_reaper", "--namespace", RUN_NAMESPACE]
    job: Object = {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": metadata(REAPER, RUN_NAMESPACE, run),
        "spec": {
            "activeDeadlineSeconds": REAPER_SECONDS,
            "backoffLimit": 20,
            "template": {
                "metadata": {"labels": {RUN_LABEL: run}},
                "spec": {
                    "serviceAccountName": REAPER,
                    "restartPolicy": "OnFailure",
                    "containers": [_container(REAPER, command)],
                    "volumes": [_scratch("tmp")],
                },
            },
        },
    }
    return [
        _namespace(RUN_NAMESPACE, run, injected=False),
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata(CONFIG_MAP, RUN_NAMESPACE, run)},
        *account(REAPER, RUN_NAMESPACE, run, rules),
        job,
    ]


# ---- the application ------------------------------------------------------------------------------------------------


def app_objects(scenario: Scenario, run: str, seed: int, kept: frozenset[str] = frozenset()) -> list[Object]:
    """All of the topology. `kept`: namespaces that exist and are not the run's.

    Raises:
        AppTooLarge
    """
    files = app_files(scenario.app)
    namespaces = sorted({service.namespace for service in scenario.app.services})
    objects: list[Object] = [_namespace(name, run, injected=True) for name in namespaces if name not in kept]
    objects += [_files(name, run, files) for name in namespaces]
    for service in scenario.app.services:
        annotations = scenario.service_annotations.get(service.name, {})
        objects.append(_service(service, run, annotations))
    for service in scenario.app.services:
        objects.append(_service_account(service.service_account, service.namespace, run))
        objects.append(_deployment(service, scenario.app, run, seed))
    return objects


def app_files(app: Application) -> dict[str, str]:
    """The application file as app.yaml, and for programs of the user's the files beside it.

    Raises:
        AppTooLarge
    """
    files = {"app.yaml": app.source.read_text()}
    if any(service.command is not None for service in app.services):
        for path in sorted(app.source.parent.iterdir()):
            if path.is_file() and path != app.source and path.name != "app.yaml":
                try:
                    files[path.name] = path.read_text()
                except UnicodeDecodeError:
                    continue  # no program's source; what is binary has to be in an image
    size = sum(len(text.encode()) for text in files.values())
    if size > MAX_APP_BYTES:
        raise AppTooLarge(
            f"{app.source.parent}: {size} bytes beside the application file; a ConfigMap holds {MAX_APP_BYTES}, so keep"
            " in that folder only what the programs need"
        )
    return files


def _deployment(service: AppService, app: Application, run: str, seed: int) -> Object:
    container = _container(APP_CONTAINER, _command(service, seed), mounts={APP_FILES: APP_MOUNT})
    container["env"] = [
        {"name": "POD_NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
        {"name": "HOST", "value": "0.0.0.0"},
        {"name": "PORT", "value": str(service.port)},
    ]
    container["ports"] = [{"name": "http", "containerPort": service.port}]
    container["readinessProbe"] = _probe(service)
    if service.command is not None:
        container["workingDir"] = APP_MOUNT
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": metadata(service.name, service.namespace, run),
        "spec": {
            "replicas": service.replicas,
            "selector": {"matchLabels": {SERVICE_LABEL: service.name}},
            "template": {
                "metadata": {
                    "labels": {SERVICE_LABEL: service.name, RUN_LABEL: run},
                    "annotations": {
                        "linkerd.io/inject": "enabled" if service.meshed else "disabled",
                        "config.linkerd.io/skip-inbound-ports": str(WORKLOAD_ADMIN_PORT),
                    },
                },
                "spec": {
                    "serviceAccountName": service.service_account,
                    "enableServiceLinks": False,
                    "terminationGracePeriodSeconds": GRACE_SECONDS,
                    "containers": [container],
                    "volumes": [_scratch("tmp"), _files_volume()],
                },
            },
        },
    }


def _command(service: AppService, seed: int) -> list[str]:
    if service.command is not None:
        # Kubernetes writes $(PORT) where the topology writes $PORT.
        return [part.replace("$PORT", "$(PORT)").replace("$HOST", "$(HOST)") for part in service.command]
    return [
        *("python", "-m", "scenarios.workload", "--app", f"{APP_MOUNT}/app.yaml", "--service", service.name),
        *("--listen", f"0.0.0.0:{service.port}", "--admin", f"0.0.0.0:{WORKLOAD_ADMIN_PORT}"),
        *("--seed", str(seed), "--replica", "$(POD_NAME)", "--direct"),
    ]


def _probe(service: AppService) -> Object:
    if service.command is None:
        check: Object = {"httpGet": {"path": "/ready", "port": WORKLOAD_ADMIN_PORT}}
    elif service.health_path is not None:
        check = {"httpGet": {"path": service.health_path, "port": service.port}}
    else:
        check = {"tcpSocket": {"port": service.port}}
    return {**check, "periodSeconds": 2, "timeoutSeconds": 2, "failureThreshold": 3}


def _service(service: AppService, run: str, annotations: Mapping[str, str]) -> Object:
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {**metadata(service.name, service.namespace, run), "annotations": dict(annotations)},
        "spec": {
            "selector": {SERVICE_LABEL: service.name},
            "ports": [{"name": "http", "port": service.port, "targetPort": service.port}],
        },
    }


# ---- load and eyes --------------------------------------------------------------------------------------------------


def load_objects(app: Application, run: str, workers: int) -> list[Object]:
    """The agent; with several workers, a Deployment of locust workers beside it, each in the mesh."""
    rules = [{"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list"]}]
    agent = _container(
        AGENT,
        [
            *("python", "-m", "gameday.worlds.kind.agent", "--run", run, "--app", f"{APP_MOUNT}/app.yaml"),
            *("--spool", SPOOL_MOUNT, "--mesh-namespace", MESH_NAMESPACE),
        ],
        mounts={APP_FILES: APP_MOUNT, "spool": SPOOL_MOUNT},
    )
    agent["readinessProbe"] = {"httpGet": {"path": "/ready", "port": AGENT_PORT}, "periodSeconds": 1}
    # API server, everybody's metrics, and locust's own talk: none of it is the load.
    past_the_proxy = {
        "config.linkerd.io/skip-outbound-ports": f"443,6443,{PROXY_ADMIN_PORT},9990-9999,{AGENT_PORT},{LOCUST_PORT}",
        "config.linkerd.io/skip-inbound-ports": f"{AGENT_PORT},{LOCUST_PORT}",
    }
    objects: list[Object] = [
        _namespace(LOAD_NAMESPACE, run, injected=True),
        _files(LOAD_NAMESPACE, run, {"app.yaml": app.source.read_text()}),
        *account(LOAD_SERVICE, LOAD_NAMESPACE, run, rules),
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": metadata(AGENT, LOAD_NAMESPACE, run),
            "spec": {
                "selector": {"gameday.role": AGENT},
                "ports": [{"name": "locust", "port": LOCUST_PORT}],
                "clusterIP": "None",
                "publishNotReadyAddresses": True,
            },
        },
        # Of several pods, those that send are the load generator; the twin counts them.
        _load_deployment(
            AGENT, LOAD_SERVICE if workers == 1 else AGENT, run, 1, agent, past_the_proxy, [_scratch("spool")]
        ),
    ]
    if workers > 1:
        worker = _container("worker", ["python", "-m", "gameday.worlds.kind.worker"], mounts={APP_FILES: APP_MOUNT})
        objects.append(_load_deployment("workers", LOAD_SERVICE, run, workers, worker, past_the_proxy, []))
    return objects


def _load_deployment(
    name: str,
    service: str,
    run: str,
    replicas: int,
    container: Object,
    annotations: Mapping[str, str],
    volumes: list[Object],
) -> Object:
    """`service`: whose name the pods' processes have in the run store."""
    role = AGENT if name == AGENT else "worker"
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": metadata(name, LOAD_NAMESPACE, run),
        "spec": {
            "replicas": replicas,
            "strategy": {"type": "Recreate"},
            "selector": {"matchLabels": {"gameday.role": role}},
            "template": {
                "metadata": {
                    "labels": {SERVICE_LABEL: service, RUN_LABEL: run, "gameday.role": role},
                    "annotations": {"linkerd.io/inject": "enabled", **annotations},
                },
                "spec": {
                    "serviceAccountName": LOAD_SERVICE,
                    "enableServiceLinks": False,
                    "terminationGracePeriodSeconds": GRACE_SECONDS,
                    "securityContext": {"fsGroup": UID},
                    "containers": [container],
                    "volumes": [_scratch("tmp"), _files_volume(), *volumes],
                },
            },
        },
    }


# ---- parts ----------------------------------------------------------------------------------------------------------


def _container(name: str, command: list[str], mounts: Mapping[str, str] | None = None) -> Object:
    found = {"tmp": "/tmp", **(mounts or {})}  # noqa: S108 - a volume of the pod's own
    return {
        "name": name,
        "image": AGENT_IMAGE,
        "imagePullPolicy": "IfNotPresent",
        "command": command,
        "securityContext": _SECURITY,
        "volumeMounts": [{"name": volume, "mountPath": path} for volume, path in found.items()],
    }


def _scratch(name: str) -> Object:
    return {"name": name, "emptyDir": {}}


def _files_volume() -> Object:
    return {"name": APP_FILES, "configMap": {"name": APP_FILES}}


def _files(namespace: str, run: str, files: Mapping[str, str]) -> Object:
    described = metadata(APP_FILES, namespace, run)
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": described, "data": dict(files)}


def _namespace(name: str, run: str, *, injected: bool) -> Object:
    annotations = {"linkerd.io/inject": "enabled"} if injected else {}
    return {
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": {"name": name, "labels": {RUN_LABEL: run}, "annotations": annotations},
    }


def _service_account(name: str, namespace: str, run: str) -> Object:
    return {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": metadata(name, namespace, run)}


def account(name: str, namespace: str, run: str, rules: list[Object]) -> list[Object]:
    """A service account with these rights in the whole cluster."""
    role = f"gameday-{name}"
    return [
        _service_account(name, namespace, run),
        {
            "apiVersion": f"{_RBAC}/v1",
            "kind": "ClusterRole",
            "metadata": {"name": role, "labels": {RUN_LABEL: run}},
            "rules": rules,
        },
        {
            "apiVersion": f"{_RBAC}/v1",
            "kind": "ClusterRoleBinding",
            "metadata": {"name": role, "labels": {RUN_LABEL: run}},
            "roleRef": {"apiGroup": _RBAC, "kind": "ClusterRole", "name": role},
            "subjects": [{"kind": "ServiceAccount", "name": name, "namespace": namespace}],
        },
    ]


def metadata(name: str, namespace: str, run: str) -> Object:
    return {"name": name, "namespace": namespace, "labels": {RUN_LABEL: run}}


def scenario_resources(paths: tuple[Path, ...]) -> list[Object]:
    """The scenario's own manifests, as they stand; the loader has checked them."""
    import yaml

    found: list[Object] = []
    for path in paths:
        found += [document for document in yaml.safe_load_all(path.read_text()) if document]
    return found
