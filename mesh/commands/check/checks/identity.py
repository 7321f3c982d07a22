"""Trust anchors and issuer: sound, in time, long enough, and of one family."""

from __future__ import annotations

from collections.abc import Callable

from cryptography import x509

from mesh.commands.check.certificates import ends_soon, name, out_of_time, read, unsupported, vouched
from mesh.commands.check.facts import Facts
from mesh.commands.check.judge import SKIP, Category, Check, Finding, Verdict, error, listed, warning

ROTATE_ANCHOR = (
    "rotate it with `gameday mesh create-anchor` and `trust-anchors`: docs/kubernetes.md#rotate-certificates"
)
ROTATE_ISSUER = (
    "issue a new one: `gameday mesh rotate-issuer` (docs/kubernetes.md#rotate-certificates); it is taken within seconds"
)
ANCHORS = "ConfigMap linkerd-identity-trust-roots"
ISSUER = "Secret linkerd-identity-issuer"


def anchors(facts: Facts) -> list[x509.Certificate]:
    return read(facts.anchors_pem or "", ANCHORS)


def issuer_chain(facts: Facts) -> list[x509.Certificate]:
    return read(facts.issuer_pem or "", ISSUER)


def config_valid(facts: Facts) -> Verdict:
    if facts.values is None and facts.anchors_pem is None and facts.issuer_pem is None:
        return SKIP
    lines = []
    if facts.anchors_pem is None:
        lines.append(f"{ANCHORS}: does not exist, or has no ca-bundle.crt")
    elif not anchors(facts):
        lines.append(f"{ANCHORS}: ca-bundle.crt is no PEM bundle")
    if facts.issuer_pem is None:
        lines.append(f"{ISSUER}: does not exist, or has no tls.crt")
    elif not issuer_chain(facts):
        lines.append(f"{ISSUER}: tls.crt is no PEM certificate")
    elif not facts.issuer_key_matches:
        lines.append(f"{ISSUER}: tls.key is not the key of tls.crt")
    return (
        error(
            "\n".join(lines),
            "put back what the install had, or `gameday mesh rotate-issuer`: docs/kubernetes.md#rotate-certificates",
        )
        if lines
        else None
    )


def _each(
    find: Callable[[Facts], list[x509.Certificate]],
    judge: Callable[[x509.Certificate, Facts], str],
    say: Callable[[str, str], Finding],
    do: str,
) -> Callable[[Facts], Verdict]:
    """A check that goes over the certificates that `find` finds."""

    def check(facts: Facts) -> Verdict:
        certificates = find(facts)
        if not certificates:
            return SKIP
        lines = [line for certificate in certificates if (line := judge(certificate, facts))]
        return say(listed(lines), do) if lines else None

    return check


def anchors_in_time(facts: Facts) -> Verdict:
    """One anchor of a bundle may have expired (the old one, in a rotation) as long as it signs nothing any more."""
    found = anchors(facts)
    if not found:
        return SKIP
    lines = [line for anchor in found if (line := out_of_time(anchor, facts.now))]
    if not lines:
        return None
    good = [anchor for anchor in found if not out_of_time(anchor, facts.now)]
    if good and vouched(issuer_chain(facts), good):
        return warning(listed(lines), "drop it from the bundle: the issuer has a valid anchor")
    return error(listed(lines), ROTATE_ANCHOR)


def issuer_vouched(facts: Facts) -> Verdict:
    chain, bundle = issuer_chain(facts), anchors(facts)
    if not chain or not bundle:
        return SKIP
    if vouched(chain, bundle):
        return None
    text = f"{ISSUER}: the issuer certificate is signed by none of the {len(bundle)} trust anchors"
    do = "put the anchor that signed it into the bundle, or replace the issuer by one that an anchor there signed"
    return error(text, do)


NO_TLS = "no mesh TLS"
"""How a handshake fails that reached its server."""
COMPONENTS = ("identity", "destination", "policy")
"""Containers that serve proxies, each with a mesh certificate of its own and no proxy beside it."""


def components_vouched(facts: Facts) -> Verdict:
    """By today's anchors: proxies ask these servers for everything, and believe nobody else."""
    bundle = anchors(facts)
    asked = [served for served in facts.served if served.component in COMPONENTS]
    if not bundle or not asked:
        return SKIP
    wrong: list[str] = []
    untold: list[str] = []
    for served in asked:
        who, chain = f"{served.pod} ({served.component})", read(served.chain_pem, "")
        if chain and not vouched(chain, bundle):
            wrong.append(f"{who}: {name(chain[0])} is signed by no trust anchor of today")
        elif not chain:
            (wrong if served.problem.startswith(NO_TLS) else untold).append(f"{who}: {served.problem}")
    if wrong:
        return error(listed(wrong), f"restart them: `kubectl -n {facts.namespace} rollout restart deploy`")
    return warning("cannot tell:\n" + listed(untold), "a handshake takes pods/portforward") if untold else None


def components_in_time(facts: Facts) -> Verdict:
    shown = [(served, chain[0]) for served in facts.served if (chain := read(served.chain_pem, ""))]
    shown = [(served, leaf) for served, leaf in shown if served.component in COMPONENTS]
    if not shown:
        return SKIP
    late = [
        f"{served.pod} ({served.component}): {line}" for served, leaf in shown if (line := out_of_time(leaf, facts.now))
    ]
    return error(listed(late), "see that linkerd-identity is ready: they renew by themselves") if late else None


CATEGORIES = (
    Category(
        "linkerd-identity",
        (
            Check("certificate config is valid", config_valid, needs=("anchors_pem", "issuer_pem")),
            Check(
                "trust anchors are using supported crypto algorithm",
                _each(anchors, lambda c, _: unsupported(c, allow_rsa=True), error, ROTATE_ANCHOR),
            ),
            Check("trust anchors are within their validity period", anchors_in_time),
            Check(
                "trust anchors are valid for at least 60 days",
                _each(anchors, lambda c, facts: ends_soon(c, facts.now), warning, ROTATE_ANCHOR),
            ),
            Check(
                "issuer cert is using supported crypto algorithm",
                _each(
                    lambda f: issuer_chain(f)[:1], lambda c, _: unsupported(c, allow_rsa=False), error, ROTATE_ISSUER
                ),
                needs=("issuer_pem",),
            ),
            Check(
                "issuer cert is within its validity period",
                _each(issuer_chain, lambda c, facts: out_of_time(c, facts.now), error, ROTATE_ISSUER),
                needs=("issuer_pem",),
            ),
            Check(
                "issuer cert is valid for at least 60 days",
                _each(issuer_chain, lambda c, facts: ends_soon(c, facts.now), warning, ROTATE_ISSUER),
                needs=("issuer_pem",),
            ),
            Check("issuer cert is issued by the trust anchor", issuer_vouched, needs=("issuer_pem",)),
        ),
    ),
    Category(
        "linkerd-control-plane-identity",
        (
            Check("control plane certificates match CA", components_vouched),
            Check("control plane certificates are within their validity period", components_in_time),
        ),
    ),
)
