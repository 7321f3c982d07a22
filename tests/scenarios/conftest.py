"""A small valid scenario in files of its own, and the way to spoil one line of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

APP = """\
apiVersion: gameday.dev/v1
kind: Application
metadata:
  name: shop
spec:
  services:
    front:
      namespace: web
      replicas: 2
      routes:
        POST /checkout: {time: 2ms, sigma: 0.3, calls: [POST payment /charge]}
        GET /old: {time: 2ms}
    payment:
      namespace: pay
      replicas: 2
      workers: 4
      routes:
        POST /charge: {time: 20ms, sigma: 0.5}
  journeys:
    checkout:
      share: 75%
      steps: [POST front /checkout]
    idle:
      share: 25%
      steps: [POST front /checkout, POST front /checkout]
"""

SCENARIO = """\
apiVersion: gameday.dev/v1
kind: Scenario
metadata:
  name: slow
  title: Payment is slow
  guide: [F4]
spec:
  app: ./app.yaml
  meshResources: [mesh.yaml]
  serviceAnnotations:
    payment:
      retry.linkerd.io/http: 5xx
      retry.linkerd.io/limit: 3
  identity: {leafLifetime: 20s, clockSkew: 500ms, minRefresh: 2s}
  load:
    rate: 60/s
    mix: {checkout: 90%, idle: 10%}
    maxInFlight: 100
    timeout: 5s
  phases:
    warmup: 5s
    baseline: 20s
    inject: 30s
    recover: 10s
  faults:
    - name: payment-slow
      kind: app-degrade
      at: 0s
      duration: 20s
      target:
        app: payment
        replicas: 1
      parameters: {latency: 300ms, errorRate: 50%, route: POST /charge}
  slos:
    - name: checkout
      route: POST front /checkout
      objective: 99%
    - {name: fast, route: POST front /checkout, objective: 0.95, latency: 500ms}
  expectations:
    - attempts_per_request of payment during inject > 1.5
    - text: Nobody waits long
      expect: p95 of checkout during recover <= 200ms
  abort:
    - {slo: checkout, burnRate: 50, for: 10s}
  actions: [Look at payment]
  variants:
    mild:
      description: Half as slow
      serviceAnnotations: {payment: null}
      faults:
        - name: payment-slow
          parameters: {latency: 150ms}
"""

MESH = """\
apiVersion: linkerd.io/v1alpha2
kind: ServiceProfile
metadata:
  name: front.web.svc.cluster.local
  namespace: web
spec:
  routes:
    - name: POST /checkout
      condition: {method: POST, pathRegex: /checkout}
"""


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Writes the three files, with `change` (old → new, each once) made in whichever holds the old text."""
    monkeypatch.chdir(tmp_path)

    def write_files(change: dict[str, str] | None = None) -> Path:
        texts = {"app.yaml": APP, "scenario.yaml": SCENARIO, "mesh.yaml": MESH}
        for old, new in (change or {}).items():
            holders = [name for name, text in texts.items() if old in text]
            assert holders, f"nothing holds {old!r}"
            texts[holders[-1]] = texts[holders[-1]].replace(old, new, 1)
        for name, text in texts.items():
            (tmp_path / name).write_text(text)
        return tmp_path / "scenario.yaml"

    return write_files
