"""`gameday mesh identity POD…`: the certificate that a pod's proxy uses now, from a handshake with it."""

from __future__ import annotations

import json
import sys
import time
from typing import Annotated, Literal

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cyclopts import Parameter

from mesh.commands.check.certificates import days, dns_names, expiry, timestamp
from mesh.commands.cluster import DEFAULTS, ClusterOptions, connected, namespace_of
from mesh.commands.control_plane import Json, get, values_of
from mesh.commands.errors import CommandFailed
from mesh.commands.handshake import HandshakeFailed, Shown, shown_certificates
from mesh.commands.portforward import PortForwarder
from mesh.commands.workloads import has_proxy
from mesh.control.names import identity_name

Form = Literal["text", "pem", "json"]


def identity(
    *pods: str,
    selector: Annotated[str | None, Parameter(name=("--selector", "-l"))] = None,
    output: Annotated[Form, Parameter(name=("--output", "-o"))] = "text",
    cluster: ClusterOptions = DEFAULTS,
) -> int:
    """Show the certificates of pods, as their proxies present them now.

    Exit codes: 0 all shown, 1 some proxy showed none, 2 bad input.

    Parameters
    ----------
    pods
        Names of pods.
    selector
        Labels instead of names, such as app=web.
    output
        text, pem (the chain) or json.
    """
    if not pods and selector is None:
        raise CommandFailed("identity: name a pod, or give a selector (-l app=web)")
    with connected(cluster) as client:
        namespace = namespace_of(cluster, client)
        home = f"/api/v1/namespaces/{namespace}/pods"
        manifests = [get(client, f"{home}/{name.removeprefix('pod/').removeprefix('po/')}") for name in pods]
        if selector is not None:
            manifests += get(client, home, {"labelSelector": selector}).get("items") or []
        if not manifests:
            raise CommandFailed(f"identity: no pods with {selector} in namespace {namespace}")
        domain = values_of(client, cluster).trust_domain
        forwarder = PortForwarder(client.config)
        shown = [(pod["metadata"]["name"], _ask(forwarder, pod, domain)) for pod in manifests]
    sys.stdout.write(render(shown, output, time.time()))
    return 0 if all(isinstance(found, Shown) for _, found in shown) else 1


def _ask(forwarder: PortForwarder, pod: Json, trust_domain: str) -> Shown | str:
    """The certificates, or why there are none."""
    namespace, name = pod["metadata"]["namespace"], pod["metadata"]["name"]
    if not has_proxy(pod):
        return "not meshed: it has no linkerd-proxy"
    own = identity_name(pod["spec"].get("serviceAccountName") or "default", namespace, trust_domain)
    try:
        return shown_certificates(forwarder, namespace, name, own)
    except HandshakeFailed as error:
        return str(error)


def render(shown: list[tuple[str, Shown | str]], output: Form, now: float) -> str:
    """What is printed: all pods, those without certificate with the reason."""
    if output == "json":
        objects = [
            {"pod": pod, **(describe(found.chain, now) if isinstance(found, Shown) else {"error": found})}
            for pod, found in shown
        ]
        return json.dumps(objects, indent=2) + "\n"
    blocks = []
    for number, (pod, found) in enumerate(shown, start=1):
        head = f"POD {pod} ({number} of {len(shown)})\n"
        if isinstance(found, str):
            blocks.append(f"{head}\nNo certificate: {found}\n")
        elif output == "pem":
            blocks.append(f"# {head}{found.pem}")
        else:
            blocks.append(f"{head}\n{_text(describe(found.chain, now))}")
    return "\n".join(blocks)


def describe(chain: tuple[x509.Certificate, ...], now: float) -> Json:
    """What people ask of a leaf and its issuers."""
    leaf = chain[0]
    left = expiry(leaf) - now
    return {
        "identity": dns_names(leaf),
        "subject": leaf.subject.rfc4514_string(),
        "issuer": leaf.issuer.rfc4514_string(),
        "serial": str(leaf.serial_number),
        "key": _key(leaf),
        "not_before": timestamp(leaf.not_valid_before_utc.timestamp()),
        "not_after": timestamp(expiry(leaf)),
        "expires_in": days(left) if left >= 0 else f"expired {days(-left)} ago",
        "expires_in_seconds": round(left),
        "sha256": leaf.fingerprint(hashes.SHA256()).hex(),
        "chain": [
            {
                "subject": certificate.subject.rfc4514_string(),
                "issuer": certificate.issuer.rfc4514_string(),
                "not_after": timestamp(expiry(certificate)),
            }
            for certificate in chain[1:]
        ],
        "pem": leaf.public_bytes(Encoding.PEM).decode(),
    }


def _text(found: Json) -> str:
    lines = [
        f"Certificate for {', '.join(found['identity']) or '(no name)'}",
        f"    Subject:     {found['subject'] or '(empty)'}",
        f"    Issuer:      {found['issuer']}",
        f"    Serial:      {found['serial']}",
        f"    Key:         {found['key']}",
        f"    Not before:  {found['not_before']}",
        f"    Not after:   {found['not_after']} ({found['expires_in']})",
        f"    SHA-256:     {found['sha256']}",
    ]
    lines += [
        f"    Signed by:   {upper['subject']}, until {upper['not_after']}, issued by {upper['issuer']}"
        for upper in found["chain"]
    ]
    return "\n".join(lines) + "\n"


def _key(certificate: x509.Certificate) -> str:
    key = certificate.public_key()
    if isinstance(key, ec.EllipticCurvePublicKey):
        return f"ECDSA {key.curve.name}"
    return f"{type(key).__name__} {getattr(key, 'key_size', '')}".strip()
