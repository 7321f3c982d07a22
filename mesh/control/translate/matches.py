"""What HTTPRoutes and GRPCRoutes match → conditions of `HttpRouteSpec`, and which of two matches is the more specific.

A GRPCRoute's service and method become the path that gRPC puts them in, `/service/method`, so that a proxy needs to
know one kind of condition only.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from mesh.api.messages import ValueMatch
from mesh.api.resources import FieldMatch, GRPCMethodMatch, GRPCRouteMatch, PathMatch, RouteMatch
from mesh.behavior.regexes import hazard
from mesh.control.translate.annotations import suggestion
from mesh.control.translate.problems import FieldPath, Unusable
from mesh.control.translate.profiles import METHODS

PATH_TYPES = ("Exact", "RegularExpression", "PathPrefix")
"""Most specific first."""
FIELD_TYPES = ("Exact", "RegularExpression")
MAX_PATH = 1024

_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,256}")
_HOSTNAME = re.compile(r"(\*\.)?[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
_GRPC_NAME = re.compile(r"[A-Za-z0-9_.-]+")


@dataclass(frozen=True, slots=True)
class Conditions:
    """One match of a rule."""

    order: tuple[int, ...]
    """Its rank among matches of one kind of route: the smallest is the most specific."""
    methods: tuple[str, ...] = ()
    path_exact: tuple[str, ...] = ()
    path_prefixes: tuple[str, ...] = ()
    path_regexes: tuple[str, ...] = ()
    headers: tuple[ValueMatch, ...] = ()
    query_params: tuple[ValueMatch, ...] = ()


def http_conditions(match: RouteMatch, place: FieldPath) -> Conditions:
    """Raises Unusable. Rank of the Gateway API: exact paths, expressions, then prefixes, longer ones first; a method;
    more headers; more query parameters."""
    if match.method is not None and match.method not in METHODS:
        raise Unusable(
            (*place, "method"), f"{match.method!r} is not an HTTP method" + suggestion(match.method.upper(), METHODS)
        )
    headers = field_matches(match.headers, (*place, "headers"), headers=True)
    query_params = field_matches(match.query_params, (*place, "queryParams"), headers=False)
    kind, value = _path(match.path, (*place, "path")) if match.path is not None else ("PathPrefix", "/")
    return Conditions(
        order=(
            PATH_TYPES.index(kind),
            -len(value),
            0 if match.method is not None else 1,
            -len(headers),
            -len(query_params),
        ),
        methods=(match.method,) if match.method is not None else (),
        path_exact=(value,) if kind == "Exact" else (),
        path_prefixes=(value,) if kind == "PathPrefix" and match.path is not None else (),
        path_regexes=(value,) if kind == "RegularExpression" else (),
        headers=headers,
        query_params=query_params,
    )


def grpc_conditions(match: GRPCRouteMatch, place: FieldPath) -> Conditions:
    """Raises Unusable. Rank: exact names, then longer services, longer methods, more headers."""
    headers = field_matches(match.headers, (*place, "headers"), headers=True)
    method = match.method or GRPCMethodMatch()
    if method.type not in FIELD_TYPES:
        raise Unusable(
            (*place, "method", "type"),
            f"{method.type!r} is not one of {', '.join(FIELD_TYPES)}" + suggestion(method.type, FIELD_TYPES),
        )
    for name, text in (("service", method.service), ("method", method.method)):
        if text is not None and method.type == "Exact" and _GRPC_NAME.fullmatch(text) is None:
            raise Unusable((*place, "method", name), f"{text!r} is not a gRPC {name} name")
        if text is not None and method.type != "Exact":
            expression(text, (*place, "method", name))
    service, name_ = method.service or "", method.method or ""
    exact = method.type == "Exact"
    order = (0 if exact and (service or name_) else 1, -len(service), -len(name_), -len(headers))
    if not service and not name_:
        return Conditions(order, methods=("POST",), headers=headers)
    if exact and service and name_:
        return Conditions(order, methods=("POST",), path_exact=(f"/{service}/{name_}",), headers=headers)
    if exact and service:
        return Conditions(order, methods=("POST",), path_prefixes=(f"/{service}",), headers=headers)
    if exact:
        name_ = re.escape(name_)
    pattern = f"/(?:{service})" if service else "/[^/]+"
    pattern += f"/(?:{name_})" if name_ else "/[^/]+"
    return Conditions(order, methods=("POST",), path_regexes=(pattern,), headers=headers)


def host_order(hostname: str) -> tuple[int, int]:
    """Exact names go before wildcards, wildcards before none, longer ones first."""
    return (0 if hostname and not hostname.startswith("*.") else 1 if hostname else 2, -len(hostname))


def checked_hostnames(hostnames: Iterable[str], place: FieldPath) -> tuple[str, ...]:
    """In lower case; one empty one where there are none. Raises Unusable."""
    found: list[str] = []
    for index, name in enumerate(hostnames):
        lower = name.lower()
        if _HOSTNAME.fullmatch(lower) is None or len(lower) > 253 or lower.rpartition(".")[2].isdigit():
            raise Unusable((*place, index), f"{name!r} is not a host name such as cart.shop or *.example.com")
        found.append(lower)
    return tuple(found) or ("",)


def field_matches(fields: Iterable[FieldMatch], place: FieldPath, *, headers: bool) -> tuple[ValueMatch, ...]:
    """Raises Unusable. Of several for one header or parameter the first counts, as the Gateway API says."""
    made: dict[str, ValueMatch] = {}
    for index, wanted in enumerate(fields):
        if wanted.type not in FIELD_TYPES:
            raise Unusable(
                (*place, index, "type"),
                f"{wanted.type!r} is not one of {', '.join(FIELD_TYPES)}" + suggestion(wanted.type, FIELD_TYPES),
            )
        name = header_name(wanted.name, (*place, index, "name")) if headers else wanted.name
        regex = wanted.type != "Exact"
        if regex:
            expression(wanted.value, (*place, index, "value"))
        made.setdefault(name, ValueMatch(name=name, value=wanted.value, regex=regex))
    return tuple(made.values())


def header_name(text: str, place: FieldPath) -> str:
    """In lower case. Raises Unusable."""
    if _TOKEN.fullmatch(text) is None:
        raise Unusable(place, f"{text!r} is not a header name")
    return text.lower()


def absolute(path: str, place: FieldPath) -> str:
    """Raises Unusable."""
    if not path.startswith("/") or "//" in path or "?" in path or "#" in path or len(path) > MAX_PATH:
        raise Unusable(place, f"{path!r} is not an absolute path such as /cart")
    return path


def expression(pattern: str, place: FieldPath) -> str:
    """Raises Unusable."""
    if (problem := hazard(pattern)) is not None:
        raise Unusable(place, f"{pattern!r} is not a regular expression that a proxy may run: {problem}")
    return pattern


def _path(path: PathMatch, place: FieldPath) -> tuple[str, str]:
    if path.type not in PATH_TYPES:
        raise Unusable(
            (*place, "type"), f"{path.type!r} is not one of {', '.join(PATH_TYPES)}" + suggestion(path.type, PATH_TYPES)
        )
    check = expression if path.type == "RegularExpression" else absolute
    return path.type, check(path.value, (*place, "value"))
