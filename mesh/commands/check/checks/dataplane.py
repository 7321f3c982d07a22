"""The proxies: up, certified by today's anchors, of the installed version, and told the truth about opaque ports."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from mesh.commands.check.certificates import name, out_of_time, read, timestamp, vouched
from mesh.commands.check.checks.identity import anchors, issuer_chain
from mesh.commands.check.checks.versions import installed_version
from mesh.commands.check.facts import Facts, Pod, Service
from mesh.commands.check.judge import SKIP, Category, Check, Verdict, error, listed, warning

PROXY = "linkerd-proxy"
OPAQUE = "config.linkerd.io/opaque-ports"
EXPIRY = "control_identity_cert_expiration_timestamp_seconds"
RESTART = "restart the workload: `kubectl rollout restart`"


def bundles_replicated(facts: Facts) -> Verdict:
    """Proxies trust what their namespace's copy of the trust anchors says."""
    if facts.anchors_pem is None or not facts.bundles:
        return SKIP
    lines = []
    for bundle in facts.bundles:
        if bundle.pem is None:
            lines.append(f"{bundle.namespace}: no ConfigMap linkerd-identity-trust-roots")
        elif bundle.pem.strip() != facts.anchors_pem.strip():
            lines.append(f"{bundle.namespace}: ConfigMap linkerd-identity-trust-roots is not the control plane's")
    if lines:
        do = f"the identity component copies it: see `kubectl -n {facts.namespace} logs deploy/linkerd-identity`"
        return error(listed(lines), do)
    return None


def certificates_vouched(facts: Facts) -> Verdict:
    """The leaf that each proxy shows now, in a handshake; not what it was injected with."""
    bundle = anchors(facts)
    shown = [(proxy, read(proxy.chain_pem, "leaf")) for proxy in facts.proxies if proxy.chain_pem]
    if not bundle or not shown:
        return SKIP
    lines = [
        f"{proxy.pod.place}: {name(chain[0]) if chain else 'certificate'} is signed by no trust anchor of today"
        for proxy, chain in shown
        if not vouched(chain, bundle)
    ]
    do = f"put its anchor back into the bundle until all leaves are renewed, or {RESTART}"
    return error(listed(lines), do) if lines else None


def of_the_issuers_anchor(facts: Facts) -> Verdict:
    """In a rotation, an anchor may be dropped only once nothing hangs from it any more (linkerd2 #4287)."""
    bundle, issuer = anchors(facts), issuer_chain(facts)
    signing = [anchor for anchor in bundle if vouched(issuer, [anchor])]
    if len(bundle) < 2 or not signing:
        return SKIP
    shown = [(proxy.pod.place, proxy.chain_pem) for proxy in facts.proxies]
    shown += [(f"{served.pod} ({served.component})", served.chain_pem) for served in facts.served]
    lines = []
    for who, pem in shown:
        chain = read(pem, "leaf")
        old = [anchor for anchor in bundle if chain and vouched(chain, [anchor])]
        if old and not vouched(chain, signing):
            lines.append(f"{who}: hangs from {name(old[0])}, which no longer signs the issuer")
    do = "keep that anchor until these have renewed (at 70% of a leaf's life), or restart them"
    return warning(listed(lines), do) if lines else None


def leaves_in_time(facts: Facts) -> Verdict:
    lines, judged = [], False
    for proxy in facts.proxies:
        chain = read(proxy.chain_pem, "leaf")
        at = (proxy.metrics or {}).get(EXPIRY)
        judged = judged or bool(chain) or at is not None
        late = out_of_time(chain[0], facts.now) if chain else ""
        if not late and not chain and at is not None and at < facts.now:
            late = f"leaf expired at {timestamp(at)}" if at else "no certificate yet"
        if late:
            lines.append(f"{proxy.pod.place}: {late}")
    if lines:
        return error(listed(lines), "see that linkerd-identity is ready; proxies renew by themselves once it is")
    return None if judged else SKIP


def namespace_exists(facts: Facts) -> Verdict:
    if facts.data_namespace is None:
        return SKIP
    if not facts.data_namespace_exists:
        return error(f'the "{facts.data_namespace}" namespace does not exist', "see the spelling of -n")
    return None


def proxies_ready(facts: Facts) -> Verdict:
    if not facts.proxies:
        where = f' in the "{facts.data_namespace}" namespace' if facts.data_namespace else ""
        return warning(f"no pods with a {PROXY}{where}", "inject: annotate the namespace linkerd.io/inject=enabled")
    lines = []
    for proxy in facts.proxies:
        pod = proxy.pod
        if pod.phase in ("Succeeded", "Failed"):
            continue
        if PROXY not in pod.containers:
            lines.append(f"{pod.place}: annotated as meshed, and has no container {PROXY}")
        elif pod.phase != "Running" or not pod.containers[PROXY]:
            lines.append(f"{pod.place}: {pod.trouble or f'{PROXY} is not ready'} ({pod.phase})")
    return error(listed(lines), f"see `kubectl logs POD -c {PROXY}`") if lines else None


def none_left_out(facts: Facts) -> Verdict:
    """While the injector was away and its webhook's failurePolicy was Ignore, pods started without a proxy; they stay
    so when it is back."""
    if not facts.unmeshed:
        return None if facts.proxies else SKIP
    lines = [f"{place}: is to be injected and has no {PROXY}" for place in facts.unmeshed]
    return warning(listed(lines), f"it started before the annotation, or while the injector was away; {RESTART}")


def none_bypasses(facts: Facts) -> Verdict:
    """Interception spares the proxy by its user id, and with it whatever else has that id."""
    if not facts.proxies:
        return SKIP
    lines = [
        f"{proxy.pod.place}: container {container} runs as the proxy's user, and nothing it sends is meshed"
        for proxy in facts.proxies
        for container in proxy.pod.bypassing
    ]
    return warning(listed(lines), "give it another runAsUser, or the proxy one (proxy.uid)") if lines else None


def metrics_reachable(facts: Facts) -> Verdict:
    running = [proxy for proxy in facts.proxies if proxy.pod.phase == "Running"]
    if not running:
        return SKIP
    lines = [f"{proxy.pod.place}: {proxy.unreachable}" for proxy in running if proxy.metrics is None]
    return error(listed(lines), "port 4191 must be open for the API server and Prometheus") if lines else None


def up_to_date(facts: Facts) -> Verdict:
    wanted = installed_version(facts)
    if not wanted or not facts.proxies:
        return SKIP
    lines = [
        f"{proxy.pod.place}: proxy {proxy.pod.proxy_version}, control plane {wanted}"
        for proxy in facts.proxies
        if proxy.pod.proxy_version != wanted
    ]
    return warning(listed(lines), f"some proxies are outdated; {RESTART}") if lines else None


def client_agrees(facts: Facts) -> Verdict:
    if not facts.proxies:
        return SKIP
    versions = {proxy.pod.proxy_version for proxy in facts.proxies} - {facts.client_version}
    if versions:
        text = f"proxies run {', '.join(sorted(versions))}, this command line is {facts.client_version}"
        return warning(text, "upgrade the older of the two")
    return None


def pod_labels(facts: Facts) -> Verdict:
    """`linkerd.io/inject` works as an annotation only; as a label it does nothing, quietly."""
    return _misplaced([(pod.place, pod.labels) for pod in facts.data_pods], "label", "linkerd.io/inject")


def service_labels(facts: Facts) -> Verdict:
    places = [(f"service {service.namespace}/{service.name}", service.labels) for service in facts.services]
    return _misplaced(places, "label", OPAQUE)


def _misplaced(places: Sequence[tuple[str, Mapping[str, str]]], what: str, key: str) -> Verdict:
    if not places:
        return SKIP
    lines = [f"{place}: {key} is a {what}" for place, labels in places if key in labels]
    return warning(listed(lines), "make it an annotation: it has no effect like this") if lines else None


def opaque_ports_agree(facts: Facts) -> Verdict:
    """A port that is opaque to the clients' proxies and not to the server's (or the other way) breaks detection."""
    if not facts.services:
        return SKIP
    lines = [
        line
        for service in facts.services
        for pod in facts.data_pods
        if pod.proxy_version and _selects(service, pod)
        for line in _differences(service, pod)
    ]
    return warning(listed(lines), f"set {OPAQUE} on the service and on the pods alike") if lines else None


def _selects(service: Service, pod: Pod) -> bool:
    if not service.selector or service.namespace != pod.namespace:
        return False
    return service.selector.items() <= pod.labels.items()


def _differences(service: Service, pod: Pod) -> Iterator[str]:
    """As Linkerd: only where one of the two has the annotation; where none has, defaults rule both."""
    on_service, on_pod = service.annotations.get(OPAQUE), pod.annotations.get(OPAQUE)
    if on_service is None and on_pod is None:
        return
    where = f"service {service.namespace}/{service.name}"
    for port, target in service.ports.items():
        number = pod.ports.get(target, 0) if isinstance(target, str) else target
        opaque_service = on_service is not None and _has(on_service, port)
        opaque_pod = on_pod is not None and _has(on_pod, number)
        if opaque_service and not opaque_pod:
            yield f"{where} has the opaque port {port}, and its target {number} of pod {pod.name} is not opaque"
        elif opaque_pod and not opaque_service:
            yield f"pod {pod.place} has the opaque port {number}, and port {port} of {where} is not opaque"


def _has(ports: str, port: int) -> bool:
    """Whether a list such as `25,3306,8000-8010` has `port`."""
    for part in ports.split(","):
        first, _, last = part.strip().partition("-")
        if first.isdecimal() and int(first) <= port <= int(last if last.isdecimal() else first):
            return True
    return False


CATEGORIES = (
    Category(
        "linkerd-identity-data-plane",
        (
            Check("trust anchors are replicated to meshed namespaces", bundles_replicated, needs=("bundles",)),
            Check("data plane proxies certificate match CA", certificates_vouched, needs=("proxies",)),
            Check("data plane proxies certificates come from the issuer's trust anchor", of_the_issuers_anchor),
            Check("data plane proxies certificates are within their validity period", leaves_in_time),
        ),
    ),
    Category(
        "linkerd-data-plane",
        (
            Check("data plane namespace exists", namespace_exists),
            Check("data plane proxies are ready", proxies_ready, needs=("proxies",)),
            Check("pods that are to be injected have a proxy", none_left_out, needs=("unmeshed",)),
            Check("no app runs as the proxy's user", none_bypasses, needs=("proxies",)),
            Check("data plane proxy metrics are reachable", metrics_reachable, needs=("proxies",)),
            Check("data plane is up-to-date", up_to_date),
            Check("data plane and cli versions match", client_agrees),
            Check("data plane pod labels are configured correctly", pod_labels, needs=("data_pods",)),
            Check("data plane service labels are configured correctly", service_labels, needs=("services",)),
            Check("opaque ports are properly annotated", opaque_ports_agree, needs=("services", "data_pods")),
        ),
    ),
)
