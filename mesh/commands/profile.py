"""`gameday mesh profile SERVICE`: a ServiceProfile, printed to be read and applied."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

import yaml
from cyclopts import Parameter

from mesh.api.durations import InvalidDuration, parse_duration
from mesh.commands.cluster import DEFAULTS, ClusterOptions
from mesh.commands.errors import CommandFailed
from mesh.commands.profiles import (
    ROUTE_LIMIT,
    InvalidOpenApi,
    Manifest,
    from_open_api,
    from_requests,
    manifest,
    template,
)
from mesh.commands.ranges import within
from mesh.commands.tap import harmless, tap_parameters
from mesh.commands.viz_api import viz
from mesh.control.names import is_dns_name, is_label


def profile(
    service: str,
    /,
    *,
    open_api: Path | None = None,
    tap: str | None = None,
    tap_duration: str = "5s",
    tap_route_limit: Annotated[int, Parameter(validator=within(1, 100_000))] = ROUTE_LIMIT,
    template_only: Annotated[bool, Parameter(name="--template", negative="")] = False,
    cluster_domain: str = "cluster.local",
    cluster: ClusterOptions = DEFAULTS,
) -> int:
    """Print a ServiceProfile for a service, as YAML for `kubectl apply -f -`.

    Parameters
    ----------
    service
        The service's name.
    open_api
        Make routes from this OpenAPI document (2.0 or 3.x; YAML or JSON; - reads stdin).
    tap
        Make routes from the requests that this workload (deploy/web …) gets while it is tapped.
    tap_duration
        How long to tap.
    tap_route_limit
        Routes at most; the most frequent are kept.
    template_only
        Print a profile to fill in.
    cluster_domain
        End of services' names in this cluster.
    """
    if sum((open_api is not None, tap is not None, template_only)) != 1:
        raise CommandFailed("profile: give one of --open-api FILE, --tap RESOURCE or --template")
    if not is_label(service):
        raise CommandFailed(f"profile: {service!r} is not the name of a service")
    if not is_dns_name(cluster_domain):
        raise CommandFailed(f"--cluster-domain: {cluster_domain!r} is not a DNS name")
    name = f"{service}.{cluster.namespace or 'default'}.svc.{cluster_domain}"
    if template_only:
        sys.stdout.write(template(name))
    elif open_api is not None:
        _write(manifest(name, _open_api(open_api)))
    else:
        assert tap is not None
        _write(manifest(name, _tap(tap, _seconds(tap_duration), tap_route_limit, cluster)))
    return 0


def _write(found: Manifest) -> None:
    sys.stdout.write(yaml.safe_dump(found, sort_keys=False, width=120))


def _open_api(path: Path) -> list[Manifest]:
    try:
        text = sys.stdin.read() if str(path) == "-" else path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise CommandFailed(f"--open-api {path}: {getattr(error, 'strerror', None) or error}") from None
    try:
        return from_open_api(yaml.safe_load(text))
    except (InvalidOpenApi, yaml.YAMLError) as error:
        raise CommandFailed(f"--open-api {path}: {' '.join(str(error).split())}") from None


def _tap(resource: str, seconds: float, limit: int, options: ClusterOptions) -> list[Manifest]:
    """From viz's `top`, which adds a tap up and says once a second how far it is, requests or not."""
    with viz(options) as api:
        parameters = tap_parameters(api, (resource,), False, None, None)
        with api.stream("top", **parameters, direction="inbound") as snapshots:
            last = last_within(snapshots, seconds)
    for note in last.get("notes") or ():
        print(f"note: {harmless(note)}", file=sys.stderr)
    if not last.get("tapping"):
        raise CommandFailed(
            f"--tap {resource}: no proxy could be tapped" + ("; see above" if last.get("notes") else "")
        )
    if not last["rows"]:
        raise CommandFailed(f"--tap {resource}: no requests in {seconds:g} s; send some, or give --tap-duration")
    return from_requests({(row["method"], row["path"]): row["count"] for row in last["rows"]}, limit)


def last_within(snapshots: Iterable[dict[str, Any]], seconds: float) -> dict[str, Any]:
    """The first snapshot after so many seconds of tapping, or the last there is."""
    last: dict[str, Any] = {}
    for last in snapshots:
        if last["seconds"] >= seconds:
            break
    return last


def _seconds(text: str) -> float:
    try:
        return parse_duration(text)
    except InvalidDuration as error:
        raise CommandFailed(f"--tap-duration: {error}") from None
