"""Filters of HTTPRoutes and GRPCRoutes → `FiltersSpec`.

Linkerd's controllers know header modifiers and redirects and leave out a whole route that has another filter. Here
URLRewrite and RequestMirror work as the Gateway API describes them, and `HTTPFailureInjector`, which Linkerd's proxies
have and its HTTPRoutes cannot say, injects failures.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable

from mesh.api.messages import (
    FailureSpec,
    FiltersSpec,
    HeaderChange,
    MirrorSpec,
    PathChange,
    RedirectSpec,
    RewriteSpec,
)
from mesh.api.resources import (
    BackendRef,
    Fraction,
    HeaderModifier,
    HeaderValue,
    MirrorTarget,
    PathModifier,
    RequestMirror,
    RouteFilter,
)
from mesh.control.names import is_dns_name
from mesh.control.translate.annotations import suggestion
from mesh.control.translate.matches import header_name
from mesh.control.translate.problems import FieldPath, Unusable

TYPES = {
    "RequestHeaderModifier": "requestHeaderModifier",
    "ResponseHeaderModifier": "responseHeaderModifier",
    "RequestRedirect": "requestRedirect",
    "URLRewrite": "urlRewrite",
    "RequestMirror": "requestMirror",
    "HTTPFailureInjector": "httpFailureInjector",
}
"""Each type of filter and the field that holds it."""
PATH_MODIFIERS = {"ReplaceFullPath": "replaceFullPath", "ReplacePrefixMatch": "replacePrefixMatch"}
REDIRECT_STATUSES = (301, 302, 303, 307, 308)

_VALUE = re.compile(r"[\t\x20-\x7e\x80-\xff]*")

AuthorityOf = Callable[[BackendRef | MirrorTarget, FieldPath], str]
"""The authority of a reference to a Service; raises Unusable."""


def filters_spec(
    filters: Iterable[RouteFilter], place: FieldPath, prefix: str | None, authority_of: AuthorityOf
) -> FiltersSpec | None:
    """None where there are none. `prefix`: what the match's path begins with, None where it is no prefix match.

    Raises Unusable: a filter that is wrong leaves its whole route out.
    """
    seen: dict[str, RouteFilter] = {}
    mirrors: list[MirrorSpec] = []
    for index, item in enumerate(filters):
        where = (*place, index)
        if item.type not in TYPES:
            raise Unusable(
                (*where, "type"), f"{item.type!r} is not one of {', '.join(TYPES)}" + suggestion(item.type, TYPES)
            )
        if _held(item) is None:
            raise Unusable(where, f"a filter of type {item.type} needs the field {TYPES[item.type]}")
        if item.type == "RequestMirror":
            assert item.request_mirror is not None
            mirrors.append(_mirror(item.request_mirror, (*where, "requestMirror"), authority_of))
            continue
        if item.type in seen:
            raise Unusable((*where, "type"), f"a second {item.type}; a rule may have one")
        seen[item.type] = item
        _check(item, (*where, TYPES[item.type]), prefix)
    if "RequestRedirect" in seen and "URLRewrite" in seen:
        raise Unusable(place, "RequestRedirect and URLRewrite exclude each other")
    if not seen and not mirrors:
        return None
    return FiltersSpec(
        request_headers=_change(seen, "RequestHeaderModifier"),
        response_headers=_change(seen, "ResponseHeaderModifier"),
        redirect=_redirect(seen.get("RequestRedirect"), prefix),
        rewrite=_rewrite(seen.get("URLRewrite"), prefix),
        mirrors=tuple(mirrors),
        failure=_failure(seen.get("HTTPFailureInjector")),
    )


def _held(item: RouteFilter) -> object:
    return {
        "RequestHeaderModifier": item.request_header_modifier,
        "ResponseHeaderModifier": item.response_header_modifier,
        "RequestRedirect": item.request_redirect,
        "URLRewrite": item.url_rewrite,
        "RequestMirror": item.request_mirror,
        "HTTPFailureInjector": item.http_failure_injector,
    }[item.type]


# ---- what may be wrong


def _check(item: RouteFilter, place: FieldPath, prefix: str | None) -> None:
    for modifier in (item.request_header_modifier, item.response_header_modifier):
        if modifier is not None:
            _check_headers(modifier, place)
    if (redirect := item.request_redirect) is not None:
        if redirect.scheme not in (None, "http", "https"):
            raise Unusable((*place, "scheme"), f"{redirect.scheme!r} is neither http nor https")
        if redirect.status_code not in REDIRECT_STATUSES:
            known = ", ".join(map(str, REDIRECT_STATUSES))
            raise Unusable((*place, "statusCode"), f"{redirect.status_code} is not one of {known}")
        if redirect.port is not None and not 1 <= redirect.port <= 65_535:
            raise Unusable((*place, "port"), f"{redirect.port} is not a port (1..65535)")
        _check_hostname(redirect.hostname, place)
        _check_path(redirect.path, (*place, "path"), prefix)
    if (rewrite := item.url_rewrite) is not None:
        _check_hostname(rewrite.hostname, place)
        _check_path(rewrite.path, (*place, "path"), prefix)
    if (failure := item.http_failure_injector) is not None:
        if not 200 <= failure.status <= 599:
            raise Unusable((*place, "status"), f"{failure.status} is not a status (200..599)")
        _percent(failure.ratio, (*place, "ratio"))


def _check_headers(modifier: HeaderModifier, place: FieldPath) -> None:
    for name, values in (("set", modifier.set), ("add", modifier.add)):
        for index, field in enumerate(values):
            header_name(field.name, (*place, name, index, "name"))
            if _VALUE.fullmatch(field.value) is None:
                raise Unusable((*place, name, index, "value"), f"{field.value!r} is not a header value")
    for index, removed in enumerate(modifier.remove):
        header_name(removed, (*place, "remove", index))


def _check_hostname(hostname: str | None, place: FieldPath) -> None:
    if hostname is not None and not is_dns_name(hostname):
        raise Unusable((*place, "hostname"), f"{hostname!r} is not a host name such as cart.example.com")


def _check_path(path: PathModifier | None, place: FieldPath, prefix: str | None) -> None:
    if path is None:
        return
    if path.type not in PATH_MODIFIERS:
        known = ", ".join(PATH_MODIFIERS)
        raise Unusable((*place, "type"), f"{path.type!r} is not one of {known}" + suggestion(path.type, PATH_MODIFIERS))
    value = path.replace_full_path if path.type == "ReplaceFullPath" else path.replace_prefix_match
    field = PATH_MODIFIERS[path.type]
    if value is None:
        raise Unusable(place, f"a path of type {path.type} needs the field {field}")
    if (value and not value.startswith("/")) or _VALUE.fullmatch(value) is None or " " in value:
        raise Unusable((*place, field), f"{value!r} is not an absolute path such as /cart")
    if path.type == "ReplacePrefixMatch" and prefix is None:
        raise Unusable((*place, "type"), "ReplacePrefixMatch needs matches whose path is a PathPrefix")


# ---- what it becomes


def _change(seen: dict[str, RouteFilter], kind: str) -> HeaderChange | None:
    item = seen.get(kind)
    if item is None:
        return None
    modifier = item.request_header_modifier if kind == "RequestHeaderModifier" else item.response_header_modifier
    assert modifier is not None

    def pairs(fields: tuple[HeaderValue, ...]) -> tuple[tuple[str, str], ...]:
        return tuple((field.name.lower(), field.value) for field in fields)

    return HeaderChange(
        set=pairs(modifier.set), add=pairs(modifier.add), remove=tuple(name.lower() for name in modifier.remove)
    )


def _redirect(item: RouteFilter | None, prefix: str | None) -> RedirectSpec | None:
    rule = item.request_redirect if item is not None else None
    if rule is None:
        return None
    return RedirectSpec(
        status=rule.status_code,
        scheme=rule.scheme,
        hostname=rule.hostname,
        port=rule.port,
        path=_path(rule.path, prefix),
    )


def _rewrite(item: RouteFilter | None, prefix: str | None) -> RewriteSpec | None:
    rule = item.url_rewrite if item is not None else None
    return RewriteSpec(hostname=rule.hostname, path=_path(rule.path, prefix)) if rule is not None else None


def _path(path: PathModifier | None, prefix: str | None) -> PathChange | None:
    if path is None:
        return None
    if path.type == "ReplaceFullPath":
        return PathChange(value=path.replace_full_path or "/")
    return PathChange(value=path.replace_prefix_match or "", prefix=prefix)


def _failure(item: RouteFilter | None) -> FailureSpec | None:
    rule = item.http_failure_injector if item is not None else None
    return FailureSpec(status=rule.status, percent=_percent(rule.ratio, ())) if rule is not None else None


def _mirror(mirror: RequestMirror, place: FieldPath, authority_of: AuthorityOf) -> MirrorSpec:
    if mirror.percent is not None and mirror.fraction is not None:
        raise Unusable(place, "percent and fraction exclude each other")
    if mirror.percent is not None and not 0 <= mirror.percent <= 100:
        raise Unusable((*place, "percent"), f"{mirror.percent} is not a percentage (0..100)")
    percent = float(mirror.percent) if mirror.percent is not None else _percent(mirror.fraction, (*place, "fraction"))
    return MirrorSpec(authority=authority_of(mirror.backend_ref, (*place, "backendRef")), percent=percent)


def _percent(fraction: Fraction | None, place: FieldPath) -> float:
    if fraction is None:
        return 100.0
    if fraction.denominator <= 0:
        raise Unusable((*place, "denominator"), "must be at least 1")
    if not 0 <= fraction.numerator <= fraction.denominator:
        raise Unusable((*place, "numerator"), f"must be from 0 to the denominator ({fraction.denominator})")
    return 100.0 * fraction.numerator / fraction.denominator
