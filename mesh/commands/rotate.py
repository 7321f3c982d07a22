"""`gameday mesh create-anchor`, `rotate-issuer`, `trust-anchors`: certificates of the mesh, renewed while it runs."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mesh.api.durations import InvalidDuration, parse_duration
from mesh.commands.cluster import DEFAULTS, ClusterOptions, connected, fixed_namespaces
from mesh.commands.errors import CommandFailed
from mesh.commands.output import applying, progress
from mesh.commands.tables import Column, Output, print_table
from mesh.control.pki import InvalidCredentials, create_trust_anchor, load_certificates, private_key_pem
from mesh.deploy.labels import NAMESPACE
from mesh.deploy.rotation import (
    bundle_objects,
    fingerprint_of,
    hangs_from,
    issuer_objects,
    load_anchor,
    renewed_issuer,
    with_anchors,
    without_anchor,
)
from mesh.deploy.text import to_yaml

if TYPE_CHECKING:
    from lightkube import Client

    from mesh.deploy.installed import Installed
    from mesh.deploy.objects import Credentials


def create_anchor(*, out: Path, lifetime: str = "87600h", trust_domain: str = "cluster.local") -> int:
    """Make a trust anchor: ca.crt, and ca.key to be kept safe outside of the cluster.

    Parameters
    ----------
    out
        Folder to write to; a ca.key that is there is never overwritten.
    lifetime
        How long it is good for, such as 87600h: ten years.
    trust_domain
        The end of its name.
    """
    anchor = create_trust_anchor(f"root.linkerd.{trust_domain}", lifetime=_seconds(lifetime))
    try:
        out.mkdir(parents=True, exist_ok=True)
        handle = os.open(out / "ca.key", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(handle, "w") as file:
            file.write(private_key_pem(anchor.key))
        (out / "ca.crt").write_text(anchor.certificate_pem)
    except OSError as error:
        raise CommandFailed(f"{error.filename or out}: {error.strerror or error}") from None
    progress(
        f"{out / 'ca.crt'} and {out / 'ca.key'}: {anchor.certificate.not_valid_after_utc:%Y-%m-%d} is its last day"
    )
    return 0


def rotate_issuer(
    *,
    anchor_certificate: Path,
    anchor_key: Path,
    lifetime: str = "8760h",
    apply: bool = False,
    cluster: ClusterOptions = DEFAULTS,
) -> int:
    """Make a new issuer from the trust anchor's key, and print its Secret for `kubectl apply -f -`.

    Identity signs with it as soon as it sees it; proxies get leaves from it as they renew. No restart.

    Parameters
    ----------
    anchor_certificate
        ca.crt; the cluster must trust it already.
    anchor_key
        ca.key.
    lifetime
        Of the issuer, at most that of the anchor.
    apply
        Apply it instead of printing it.
    """
    fixed_namespaces(cluster)
    with connected(cluster) as client, applying():
        found = _installed(client)
        if found.values.identity.issuer.external:
            raise CommandFailed("the issuer of this cluster is kept by somebody else (identity.issuer.external)")
        try:
            anchor = load_anchor(_read(anchor_certificate), _read(anchor_key))
            credentials = renewed_issuer(
                found.credentials, anchor, found.values.trust_domain, lifetime=_seconds(lifetime)
            )
        except InvalidCredentials as error:
            raise CommandFailed(str(error)) from None
        _out(client, issuer_objects(found.values, credentials), apply)
    return 0


def trust_anchors(
    *,
    add: Path | None = None,
    drop: str | None = None,
    apply: bool = False,
    force: bool = False,
    output: Output = "table",
    cluster: ClusterOptions = DEFAULTS,
) -> int:
    """List the trust anchors of the cluster, or print the bundle with one more or one less for `kubectl apply -f -`.

    Parameters
    ----------
    add
        PEM of the anchors to trust as well.
    drop
        SHA-256 of the anchor to trust no more, or its beginning. Only once every proxy has a leaf from the new issuer.
    apply
        Apply it instead of printing it.
    force
        Drop it although certificates in use hang from it: peers refuse those until they have renewed.
    output
        table or json.
    """
    if add is not None and drop is not None:
        raise CommandFailed("--add and --drop are two steps, with the rotation of the issuer between them")
    fixed_namespaces(cluster)
    with connected(cluster) as client, applying():
        found = _installed(client)
        if found.values.identity.external_ca:
            raise CommandFailed("the trust anchors of this cluster are kept by somebody else (identity.externalCA)")
        try:
            if add is None and drop is None:
                _list(found, output)
                return 0
            credentials = (
                with_anchors(found.credentials, load_certificates(_read(add), str(add)))
                if add is not None
                else without_anchor(found.credentials, drop or "")
            )
        except InvalidCredentials as error:
            raise CommandFailed(str(error)) from None
        if drop is not None and not force:
            _refuse_while_needed(client, found, credentials)
        _out(client, bundle_objects(found.values, credentials), apply)
    return 0


def _refuse_while_needed(client: Client, found: Installed, without: Credentials) -> None:
    """Raises CommandFailed while the anchor that `without` lacks holds a certificate in use."""
    from mesh.commands.anchor_holders import holders_in

    now = time.time()
    rest = load_certificates(without.trust_anchors.encode(), "trust anchors")
    every = load_certificates(found.credentials.trust_anchors.encode(), "trust anchors")
    (dropped,) = (anchor for anchor in every if anchor not in rest)
    if dropped.not_valid_after_utc.timestamp() < now:
        return
    holders = holders_in(client, NAMESPACE, found.values, dropped, rest, now)
    if holders.hanging:
        raise CommandFailed(
            f"{len(holders.hanging)} certificates in use hang from it ({_few(holders.hanging)}): wait until they have "
            "renewed, at 70% of a leaf's life, or restart them; --force drops it nevertheless"
        )
    if holders.unseen:
        raise CommandFailed(
            f"not known whether certificates in use hang from it ({_few(holders.unseen)}): see gameday mesh check "
            "--proxy; --force drops it nevertheless"
        )


def _few(names: tuple[str, ...]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _list(found: Installed, output: Any) -> None:
    anchors = load_certificates(found.credentials.trust_anchors.encode(), "trust anchors")
    issuer = found.credentials.issuer_certificate
    top = load_certificates(issuer.encode(), "issuer")[-1] if issuer else None
    signer = hangs_from(top, anchors) if top is not None else None
    columns = [Column("SHA256"), Column("SUBJECT"), Column("NOT_AFTER"), Column("SIGNS_ISSUER")]
    rows = [
        (
            fingerprint_of(anchor)[:16],
            anchor.subject.rfc4514_string().replace(" ", "_"),
            f"{anchor.not_valid_after_utc:%Y-%m-%dT%H:%M:%SZ}",
            None if top is None else "yes" if anchor == signer else "no",
        )
        for anchor in anchors
    ]
    print_table(columns, rows, output)


def _installed(client: Client) -> Installed:
    from mesh.deploy.installed import NotInstalled, read_installed

    try:
        return read_installed(client)
    except NotInstalled as error:
        raise CommandFailed(str(error)) from None


def _out(client: Client, objects: list[dict[str, Any]], apply: bool) -> None:
    if not apply:
        sys.stdout.write(to_yaml(objects))
        return
    from mesh.deploy.apply import FIELD_MANAGER
    from mesh.deploy.paths import apply_object

    for item in objects:
        apply_object(client, item, FIELD_MANAGER)
    progress(f"{len(objects)} objects applied")


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise CommandFailed(f"{path}: {error.strerror or error}") from None


def _seconds(text: str) -> float:
    try:
        seconds = parse_duration(text)
    except InvalidDuration as error:
        raise CommandFailed(f"--lifetime: {error}") from None
    if seconds <= 0:
        raise CommandFailed("--lifetime: must be longer than zero")
    return seconds
