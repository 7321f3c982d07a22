"""A Prometheus beside the run: it scrapes the proxies as a user's own would, and has rules made from the objectives.

What it counted is saved as prometheus.json in the run's folder when the load ends, so that report, CLI and Prometheus
can be held against each other. It is no part of the verdict. The windows of its rules are the SRE Workbook's,
compressed to the length of the drill as the report's are.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import msgspec
import yaml
from lightkube import Client

from gameday.worlds.kind.manifests import Object, metadata
from gameday.worlds.kind.names import AGENT, AGENT_PORT, LOAD_NAMESPACE, RUN_LABEL, RUN_NAMESPACE
from mesh.kube.client import ProxyFailed, proxy_get
from reports.rules import STATUSES, rules_text
from scenarios.model import Scenario
from scenarios.slo import MONTH_RULES, compress

NAME = "prometheus"
PORT = 9090
CONFIG_MOUNT = "/etc/gameday-prometheus"
FILE = "prometheus.json"
NOBODY = 65534
SCRAPE_INTERVAL = "1s"
SHORTEST_WINDOW_SECONDS = 5.0


def prometheus_objects(scenario: Scenario, run: str, image: str) -> list[Object]:
    """Configuration, Service, Deployment. `image`: its entry point is prometheus."""
    labels = {"gameday.role": NAME, RUN_LABEL: run}
    container = {
        "name": NAME,
        "image": image,
        "imagePullPolicy": "IfNotPresent",
        "args": [
            f"--config.file={CONFIG_MOUNT}/prometheus.yml",
            "--storage.tsdb.path=/data",
            f"--web.listen-address=0.0.0.0:{PORT}",
        ],
        "readinessProbe": {"httpGet": {"path": "/-/ready", "port": PORT}, "periodSeconds": 2},
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "runAsNonRoot": True,
            "runAsUser": NOBODY,
            "capabilities": {"drop": ["ALL"]},
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "volumeMounts": [
            {"name": "config", "mountPath": CONFIG_MOUNT},
            {"name": "data", "mountPath": "/data"},
        ],
    }
    return [
        {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": metadata(NAME, RUN_NAMESPACE, run),
            "data": {"prometheus.yml": configuration(), "rules.yml": rules_of(scenario)},
        },
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": metadata(NAME, RUN_NAMESPACE, run),
            "spec": {"selector": {"gameday.role": NAME}, "ports": [{"name": "http", "port": PORT}]},
        },
        {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": metadata(NAME, RUN_NAMESPACE, run),
            "spec": {
                "replicas": 1,
                "selector": {"matchLabels": {"gameday.role": NAME}},
                "template": {
                    "metadata": {"labels": labels},
                    "spec": {
                        "automountServiceAccountToken": False,
                        "securityContext": {"fsGroup": NOBODY},
                        "containers": [container],
                        "volumes": [
                            {"name": "config", "configMap": {"name": NAME}},
                            {"name": "data", "emptyDir": {}},
                        ],
                    },
                },
            },
        },
    ]


def rules_of(scenario: Scenario) -> str:
    """The rule file, with windows that fit the drill; a rate needs several scrapes, so none is shorter than that."""
    compressed = compress(MONTH_RULES, scenario.phases.inject + scenario.phases.recover)
    return rules_text(
        scenario,
        [
            replace(rule, short=max(rule.short, SHORTEST_WINDOW_SECONDS), long=max(rule.long, SHORTEST_WINDOW_SECONDS))
            for rule in compressed
        ],
    )


def configuration() -> str:
    """prometheus.yml: every proxy of the run, as the agent lists them.

    Not `kubernetes_sd_configs`: that needs rights in the cluster, and some builds of Prometheus (Debian's) lack it.
    """
    url = f"http://{AGENT}.{LOAD_NAMESPACE}.svc.cluster.local:{AGENT_PORT}/targets"
    job = {"job_name": "linkerd-proxy", "http_sd_configs": [{"url": url, "refresh_interval": "2s"}]}
    text: str = yaml.safe_dump(
        {
            "global": {"scrape_interval": SCRAPE_INTERVAL, "evaluation_interval": SCRAPE_INTERVAL},
            "rule_files": ["rules.yml"],
            "scrape_configs": [job],
        },
        sort_keys=False,
    )
    return text


def ask(client: Client, expression: str) -> list[dict[str, Any]]:
    """The result of an instant query. Raises ProxyFailed: it does not answer, or does not know what was asked."""
    body = proxy_get(client, RUN_NAMESPACE, "services", f"{NAME}:{PORT}", "/api/v1/query", params={"query": expression})
    found: list[dict[str, Any]] = msgspec.json.decode(body)["data"]["result"]
    return found


def counted(client: Client, scenario: Scenario) -> dict[str, Any]:
    """What it counted by the end of the load: requests at the load generator's proxies by service and status, and
    which alerts fired. Raises ProxyFailed."""
    entry = f'{STATUSES}{{namespace="{LOAD_NAMESPACE}"}}'
    by_status = ask(client, f"sum by (parent_name, http_status) ({entry})")
    window = f"{round(scenario.phases.inject + scenario.phases.recover) + 30}s"
    alerts = ask(client, f'max by (slo, rule) (max_over_time(ALERTS{{alertstate="firing"}}[{window}]))')
    return {
        "requests": [
            {
                "service": row["metric"].get("parent_name", ""),
                "status": row["metric"].get("http_status", ""),
                "count": float(row["value"][1]),
            }
            for row in by_status
        ],
        "alerts": sorted(f"{row['metric'].get('slo')} {row['metric'].get('rule')}" for row in alerts),
    }


__all__ = ["FILE", "ProxyFailed", "counted", "prometheus_objects"]
