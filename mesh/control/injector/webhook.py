"""The injector as a webhook: what it needs to know of the cluster, and what it tells of what it did.

    Namespaces (informer) ────────────┐
    ConfigMap linkerd-config ─────────┼─► review ─► patch
    ConfigMap …-trust-roots ──────────┘       └─► metrics, an Event on the workload

A namespace that the informer has not heard of yet (made a moment ago, by the same `kubectl apply`) is asked for before
its pod is answered; Linkerd's injector takes it for one without annotations, and the pod starts un-meshed.
"""

from __future__ import annotations

from collections.abc import Awaitable, Mapping

import msgspec

from mesh.api.values import CONFIG_KEY, CONFIG_MAP, InvalidValues, Values, load_values
from mesh.control.injector.patch import Cluster, Verdict, difference, injected, opaque_service, owner_of, verdict
from mesh.control.log import Log
from mesh.control.metrics import Metrics
from mesh.control.webhook.review import AdmissionRequest, Answer
from mesh.kube.api import Api, ApiFailed, Missing
from mesh.kube.events import About, Events
from mesh.kube.informer import Informer
from mesh.kube.kinds import CONFIG_MAP as CONFIG_MAPS
from mesh.kube.kinds import NAMESPACE
from mesh.kube.permissions import TRUST_ROOTS
from mesh.kube.store import Change

BUNDLE_KEY = "ca-bundle.crt"
_API_VERSIONS = {"Deployment": "apps/v1", "ReplicaSet": "apps/v1", "StatefulSet": "apps/v1", "DaemonSet": "apps/v1"}
_QUIET = ("injection_enable_annotation_absent", "injection_disable_annotation_present")
"""Not told as events: they are what was asked for."""


class _Meta(msgspec.Struct):
    annotations: dict[str, str] | None = None


class _Annotated(msgspec.Struct):
    metadata: _Meta


class _ConfigMap(msgspec.Struct):
    data: dict[str, str] | None = None


class Injector:
    """Answers the API server."""

    def __init__(self, api: Api, namespace: str, events: Events, log: Log, metrics: Metrics) -> None:
        """`namespace`: the control plane's."""
        self._api = api
        self._events = events
        self._log = log
        self._metrics = metrics
        self._values = Values()
        self.namespaces: Informer[dict[str, str]] = Informer(api, NAMESPACE, _annotations, log)
        self.config: Informer[dict[str, str]] = Informer(
            api, CONFIG_MAPS, _data, log, self._configured, namespace=namespace, fields=f"metadata.name={CONFIG_MAP}"
        )
        self.anchors: Informer[dict[str, str]] = Informer(
            api, CONFIG_MAPS, _data, log, namespace=namespace, fields=f"metadata.name={TRUST_ROOTS}"
        )
        self._home = namespace
        metrics.counter("proxy_inject_admission_requests_total", "Pods and Services that the API server showed us")
        metrics.counter(
            "proxy_inject_admission_responses_total", "Answers, by whether and why the object was left alone"
        )

    @property
    def informers(self) -> tuple[Informer[dict[str, str]], ...]:
        return self.namespaces, self.config, self.anchors

    def review(self, request: AdmissionRequest) -> Answer | Awaitable[Answer]:
        """The answer about one object; awaited where its namespace has to be asked for first."""
        known = self.namespaces.store.get("", request.namespace)
        if known is not None:
            return self._judge(request, known)
        return self._ask(request)

    # ---- inside

    async def _ask(self, request: AdmissionRequest) -> Answer:
        try:
            found = await self._api.request("GET", NAMESPACE.path(None, request.namespace))
            annotations = msgspec.json.decode(found, type=_Annotated).metadata.annotations or {}
        except Missing:
            annotations = {}
        except (ApiFailed, msgspec.DecodeError) as error:
            # Answered all the same: an error here would be a pod that does not start, or one that starts un-meshed,
            # by the failure policy. What the pod itself says still counts.
            self._log.warn("namespace not known", namespace=request.namespace, reason=error)
            annotations = {}
        return self._judge(request, annotations)

    def _judge(self, request: AdmissionRequest, of_namespace: Mapping[str, str]) -> Answer:
        object_ = request.decoded()
        if request.operation != "CREATE" or not object_:
            return Answer()
        match request.kind.kind:
            case "Pod":
                return self._judge_pod(request, object_, of_namespace)
            case "Service":
                patch = opaque_service(object_, of_namespace)
                self._count(request, "service", Verdict("" if patch else "no_opaque_ports"))
                return Answer(patch=patch or None)
        return Answer()

    def _judge_pod(self, request: AdmissionRequest, pod: dict[str, object], of_namespace: Mapping[str, str]) -> Answer:
        owner = owner_of(pod)
        found = verdict(pod, of_namespace)
        self._count(request, owner[0].lower() if owner is not None else "pod", found)
        if found.reason:
            if owner is not None and found.reason not in _QUIET and not request.dry_run:
                self._tell(
                    request, owner, "InjectionSkipped", f"Linkerd sidecar proxy injection skipped: {found.reason}"
                )
            return Answer()
        anchors = (self.anchors.store.get(self._home, TRUST_ROOTS) or {}).get(BUNDLE_KEY, "")
        result = injected(pod, request.namespace, of_namespace, Cluster(self._values, anchors))
        warnings = result.settings.warnings
        if owner is not None and not request.dry_run:
            self._tell(request, owner, "Injected", "Linkerd sidecar proxy injected")
            for warning in warnings:
                self._tell(request, owner, "InvalidAnnotation", warning, warn=True)
        name = owner[1] if owner is not None else request.name
        self._log.info("injected", namespace=request.namespace, workload=name, dry_run=str(request.dry_run).lower())
        return Answer(patch=difference(pod, result.pod), warnings=warnings)

    def _tell(
        self, request: AdmissionRequest, owner: tuple[str, str], reason: str, text: str, *, warn: bool = False
    ) -> None:
        kind, name = owner
        about = About(kind, request.namespace, name, _API_VERSIONS.get(kind, "v1"))
        self._events.tell(about, reason, text, "Warning" if warn else "Normal")

    def _count(self, request: AdmissionRequest, owner_kind: str, found: Verdict) -> None:
        namespace, at, reason = request.namespace, found.at, found.reason
        self._metrics.add(
            "proxy_inject_admission_requests_total", owner_kind=owner_kind, namespace=namespace, annotation_at=at
        )
        self._metrics.add(
            "proxy_inject_admission_responses_total",
            owner_kind=owner_kind,
            namespace=namespace,
            annotation_at=at,
            skipped="true" if reason else "false",
            skip_reason=reason,
        )

    def _configured(self, changes: list[Change[dict[str, str]]]) -> None:
        for change in changes:
            text = (change.after or {}).get(CONFIG_KEY)
            if text is None:
                continue  # removed: a mesh that is being uninstalled injects as it did
            try:
                self._values = load_values(text)
            except InvalidValues as error:
                self._log.error("the install's values cannot be used; the last ones stay", reason=error)
            else:
                self._log.info("values taken in", image=f"{self._values.image.name}:{self._values.image.version}")


def _annotations(raw: bytes) -> dict[str, str]:
    return msgspec.json.decode(raw, type=_Annotated).metadata.annotations or {}


def _data(raw: bytes) -> dict[str, str]:
    return msgspec.json.decode(raw, type=_ConfigMap).data or {}
