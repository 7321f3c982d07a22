"""Matches of HTTPRoutes whose parent is a Server → `InboundRoute`s, and which of two is the more specific."""

from __future__ import annotations

from mesh.api.messages import AuthorizationSpec, InboundRoute, ValueMatch
from mesh.api.resources import HTTPRoute, RouteMatch
from mesh.behavior.regexes import hazard
from mesh.control.translate.annotations import suggestion
from mesh.control.translate.authorizations import Unusable
from mesh.control.translate.problems import FieldPath

PATH_ORDER = {"Exact": 0, "RegularExpression": 1, "PathPrefix": 2}


def inbound_route(
    route: HTTPRoute,
    group: str,
    host: str,
    match: RouteMatch,
    authorizations: tuple[AuthorizationSpec, ...],
    place: FieldPath,
) -> InboundRoute:
    """Raises Unusable."""
    path = {"Exact": "", "PathPrefix": "", "RegularExpression": ""}
    if match.path is not None:
        kind, value = match.path.type, match.path.value
        if kind not in path:
            raise Unusable(
                (*place, "path", "type"), f"{kind!r} is not one of {', '.join(path)}" + suggestion(kind, path)
            )
        if kind != "RegularExpression" and not value.startswith("/"):
            raise Unusable((*place, "path", "value"), f"{value!r} is not an absolute path; begin it with /")
        path[kind] = _expression(value, (*place, "path", "value")) if kind == "RegularExpression" else value
    return InboundRoute(
        name=route.metadata.name,
        kind="HTTPRoute",
        group=group,
        hostname=host,
        method=match.method or "",
        path_exact=path["Exact"],
        path_prefix=path["PathPrefix"],
        path_regex=path["RegularExpression"],
        headers=_fields(match, "headers", place),
        query_params=_fields(match, "queryParams", place),
        authorizations=authorizations,
    )


def _fields(match: RouteMatch, name: str, place: FieldPath) -> tuple[ValueMatch, ...]:
    fields = match.headers if name == "headers" else match.query_params
    made: list[ValueMatch] = []
    for index, wanted in enumerate(fields):
        regex = wanted.type == "RegularExpression"
        if not regex and wanted.type != "Exact":
            message = f"{wanted.type!r} is not one of Exact, RegularExpression"
            raise Unusable((*place, name, index, "type"), message + suggestion(wanted.type, ("RegularExpression",)))
        value = _expression(wanted.value, (*place, name, index, "value")) if regex else wanted.value
        made.append(
            ValueMatch(name=wanted.name.lower() if name == "headers" else wanted.name, value=value, regex=regex)
        )
    return tuple(made)


def _expression(pattern: str, path: FieldPath) -> str:
    if (problem := hazard(pattern)) is not None:
        raise Unusable(path, f"{pattern!r}: {problem}")
    return pattern


def specificity(host: str, match: RouteMatch) -> tuple[int, ...]:
    """Gateway API: exact hosts, then longer ones; the kind of path, longer ones; a method; more headers, more query."""
    kind, length = (PATH_ORDER[match.path.type], len(match.path.value)) if match.path is not None else (3, 0)
    hosts = (0 if host and not host.startswith("*.") else 1 if host else 2, -len(host))
    return (
        *hosts,
        kind,
        -length,
        0 if match.method is not None else 1,
        -len(match.headers),
        -len(match.query_params),
    )
