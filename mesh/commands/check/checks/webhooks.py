"""The admission webhooks: do their certificates hold, and do they do their work when they are called?

A webhook whose certificate the API server does not accept, or that does not answer, is silent with failurePolicy
Ignore: pods simply come up without a proxy. So each is called for real, with a dry run through the API server.
"""

from __future__ import annotations

from functools import partial

from cryptography import x509

from mesh.commands.check.certificates import dns_names, ends_soon, out_of_time, read, vouched
from mesh.commands.check.facts import Facts, Webhook
from mesh.commands.check.judge import SKIP, Category, Check, Verdict, error, listed, warning

NAMES = ("proxy-injector", "policy-validator")
RENEW = "delete the Secret {secret}: the control plane issues a new one and writes its CA into the configuration"


def _webhook(name: str, facts: Facts) -> Webhook | None:
    return next((webhook for webhook in facts.webhooks if webhook.name == name and webhook.configured), None)


def certificate_valid(name: str, facts: Facts) -> Verdict:
    webhook = _webhook(name, facts)
    if webhook is None:
        return SKIP
    renew = RENEW.format(secret=webhook.secret)
    chain, authorities = read(webhook.serving_pem, webhook.secret), read(webhook.ca_bundle_pem, "caBundle")
    if not chain:
        do = f"{_server(name)} makes it when it starts: see `kubectl -n {facts.namespace} logs deploy/{_server(name)}`"
        return error(f"Secret {webhook.secret}: does not exist, or holds no certificate", do)
    lines = []
    if not authorities:
        lines.append("caBundle of the webhook configuration is empty, or no PEM")
    elif not any(vouched(chain[:end], authorities) or chain[0] in authorities for end in range(1, len(chain) + 1)):
        lines.append(f"caBundle does not vouch for the certificate in Secret {webhook.secret}")
    lines += _stale(name, facts, authorities)
    if not webhook.key_matches:
        lines.append(f"Secret {webhook.secret}: tls.key is not the key of tls.crt")
    used = [authority for authority in authorities if vouched(chain[:1], [authority])]  # others are of before a renewal
    late = [line for certificate in (chain[0], *used) if (line := out_of_time(certificate, facts.now))]
    lines += dict.fromkeys(late)
    names = dns_names(chain[0])
    lines += [f"certificate is not for {host}, but {', '.join(names)}" for host in webhook.hosts if host not in names]
    return error(listed(lines), renew) if lines else None


def _stale(name: str, facts: Facts, authorities: list[x509.Certificate]) -> list[str]:
    """Servers that go on with a certificate of before (linkerd2 #5888): pods are not created meanwhile."""
    lines = []
    for served in facts.served:
        chain = read(served.chain_pem, "") if served.component == name else []
        if chain and authorities and not (vouched(chain, authorities) or chain[0] in authorities):
            lines.append(f"pod {served.pod} serves another certificate, for which caBundle does not vouch: restart it")
    return lines


def certificate_lasts(name: str, facts: Facts) -> Verdict:
    """The control plane renews it when a third of its year is left: less than 60 days means that it does not."""
    webhook = _webhook(name, facts)
    chain = read(webhook.serving_pem, "") if webhook is not None else []
    if webhook is None or not chain or out_of_time(chain[0], facts.now):
        return SKIP
    line = ends_soon(chain[0], facts.now)
    return warning(line, RENEW.format(secret=webhook.secret)) if line else None


def works(name: str, facts: Facts) -> Verdict:
    webhook = _webhook(name, facts)
    if webhook is None or webhook.trial is None:
        return SKIP
    if not webhook.trial:
        return None
    effect = (
        "what it should see is refused meanwhile"
        if webhook.failure_policy == "Fail"
        else "what it should see passes it by meanwhile"
    )
    text = f"{webhook.trial}\nfailurePolicy is {webhook.failure_policy}: {effect}"
    return error(text, f"see the checks above, and `kubectl -n {facts.namespace} logs deploy/{_server(name)}`")


def _server(name: str) -> str:
    """The deployment (and container) that serves the webhook."""
    return "linkerd-destination -c policy" if name == "policy-validator" else f"linkerd-{name}"


CATEGORY = Category(
    "linkerd-webhooks-and-apisvc-tls",
    tuple(
        check
        for name in NAMES
        for check in (
            Check(f"{name} webhook has valid cert", partial(certificate_valid, name), needs=("webhooks",)),
            Check(f"{name} cert is valid for at least 60 days", partial(certificate_lasts, name), needs=("webhooks",)),
            Check(f"{name} webhook does its work (dry run)", partial(works, name), needs=("webhooks",)),
        )
    ),
)
