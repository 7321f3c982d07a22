"""Where an install's trust anchors and issuer come from: made here, read from files, or left to somebody else.

    nothing given                          anchor and issuer are made; the anchor's key is thrown away, as by linkerd
                                           install: a new issuer then needs a new anchor, too
    --identity-trust-anchors-file,
    --identity-issuer-certificate-file,
    --identity-issuer-key-file             the user's own
    --identity-external-issuer             the Secret is kept by cert-manager or the like; anchors by file
    --identity-external-ca                 anchors too are kept by somebody else (trust-manager)

What is given is checked as identity would check it when it starts.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

from mesh.control.pki import (
    Authority,
    InvalidCredentials,
    create_issuer,
    create_trust_anchor,
    load_certificates,
    load_issuer,
    to_pem,
)
from mesh.deploy.objects import Credentials


@dataclass(frozen=True, slots=True)
class CredentialFiles:
    """What the user gave."""

    trust_anchors: Path | None = None
    issuer_certificate: Path | None = None
    issuer_key: Path | None = None


def create_credentials(trust_domain: str, now: float | None = None) -> Credentials:
    """A new trust anchor and its issuer, valid for one year, as `linkerd install` makes them."""
    anchor = create_trust_anchor(f"root.linkerd.{trust_domain}", now=now)
    return credentials_of(anchor.certificate_pem, create_issuer(anchor, f"identity.linkerd.{trust_domain}", now=now))


def credentials_of(trust_anchors: str, issuer: Authority) -> Credentials:
    chain = "".join(to_pem(certificate) for certificate in (issuer.certificate, *issuer.chain))
    return Credentials(trust_anchors, chain, issuer.key_pem)


def read_credentials(
    files: CredentialFiles, *, external_issuer: bool, external_ca: bool, trust_domain: str, now: float | None = None
) -> Credentials:
    """What the install starts from.

    Raises:
        InvalidCredentials: files that are missing, cannot be read or do not belong together.
    """
    if external_issuer or external_ca:
        if files.issuer_certificate or files.issuer_key:
            raise InvalidCredentials(
                "--identity-external-issuer and --identity-issuer-certificate-file exclude each other; take one out"
            )
        if external_ca:
            return Credentials("")
        if files.trust_anchors is None:
            raise InvalidCredentials(
                "--identity-external-issuer needs --identity-trust-anchors-file, or --identity-external-ca"
            )
        return Credentials(_anchors(files.trust_anchors))
    given = (files.trust_anchors, files.issuer_certificate, files.issuer_key)
    if not any(given):
        return create_credentials(trust_domain, now)
    if files.trust_anchors is None or files.issuer_certificate is None or files.issuer_key is None:
        raise InvalidCredentials(
            "give all of --identity-trust-anchors-file, --identity-issuer-certificate-file and "
            "--identity-issuer-key-file, or none of them"
        )
    anchors = _anchors(files.trust_anchors)
    issuer = load_issuer(
        _read(files.issuer_certificate),
        _read(files.issuer_key),
        load_certificates(anchors.encode(), str(files.trust_anchors)),
        time.time() if now is None else now,
    )
    return credentials_of(anchors, issuer)


def changed_credentials(
    installed: Credentials,
    files: CredentialFiles,
    *,
    external_issuer: bool,
    external_ca: bool,
    now: float | None = None,
) -> Credentials:
    """The credentials of an upgrade: the cluster's, with what the user gives in their place. The issuer must be signed
    by one of the anchors afterwards, so that a bundle that drops its anchor is refused.

    Raises:
        InvalidCredentials: files that cannot be read, or do not fit to each other or to what stays.
    """
    if external_ca:
        return Credentials("")
    anchors = installed.trust_anchors if files.trust_anchors is None else _anchors(files.trust_anchors)
    if external_issuer:
        return Credentials(anchors)
    certificate, key = installed.issuer_certificate.encode(), installed.issuer_key.encode()
    if files.issuer_certificate is not None and files.issuer_key is not None:
        certificate, key = _read(files.issuer_certificate), _read(files.issuer_key)
    elif files.issuer_certificate is not None or files.issuer_key is not None:
        raise InvalidCredentials("give both --identity-issuer-certificate-file and --identity-issuer-key-file")
    elif files.trust_anchors is None:
        return installed  # also an expired issuer: it must not stand in the way of an upgrade (linkerd2 #4808)
    known = load_certificates(anchors.encode(), "trust anchors")
    return credentials_of(anchors, load_issuer(certificate, key, known, time.time() if now is None else now))


def _anchors(path: Path) -> str:
    return "".join(to_pem(certificate) for certificate in load_certificates(_read(path), str(path)))


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InvalidCredentials(f"{path}: {error.strerror or error}") from None
