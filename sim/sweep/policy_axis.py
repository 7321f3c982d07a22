"""The policy axis of a phase map: a few words → the scenario's setup with that policy.

    scenario                 as it is
    limit=3                  every route of the service is retried up to three times, with no budget
    budget=20%               a ServiceProfile with that retry budget and no limit, in place of annotations and routes
    timeout=500ms            each try waits that long (with a profile: each request, and what times out is not retried)
    queue=50                 so many requests wait in each pod of the service, then it answers 503
    replicas=3, breaker      pods; circuit breaker with Linkerd's defaults
    cancels                  the service stops working for callers that have left
    limit=1,timeout=1s@cart  several at once, at a service that is named; else at the one that the faults hit

The changes are those of `sim.sweep.policy`, on the messages that the control plane would send.
"""

from __future__ import annotations

from dataclasses import replace

import msgspec

from mesh.api.durations import InvalidDuration, parse_duration
from mesh.api.messages import FailureAccrualSpec, HttpRouteSpec
from scenarios.load.application import MAX_PODS
from scenarios.model import AppService
from sim.knobs.changes import retry_limit
from sim.model.setup import Setup
from sim.sweep.policy import budgeted, with_limit, with_policy, with_profile, with_service

AS_IT_IS = "scenario"
WORDS = "limit=N, budget=N%, timeout=DURATION, queue=N, replicas=N, breaker, cancels"


class InvalidPolicy(ValueError):
    """Words that are no policy, or have nowhere to apply; the text is for the user."""


def faulted_service(setup: Setup) -> AppService | None:
    """The first service that a fault names."""
    names = [str(fault.targets["service"]) for fault in setup.faults if "service" in fault.targets]
    return next((s for s in setup.app.services if names and s.name == names[0]), None)


def standard(setup: Setup) -> list[str]:
    """The policies worth a map each: as it is, retries 0 to 3, a budget, a shorter queue."""
    service = faulted_service(setup)
    if service is None:
        return [AS_IT_IS]
    rules = setup.rules[service.authority]
    now = 0 if rules.profile.exists else retry_limit(rules)
    found = [AS_IT_IS]
    if rules.profile.exists or now:
        found.append("limit=0")
    found += [f"limit={limit}" for limit in (1, 2, 3) if rules.profile.exists or limit != now]
    if not rules.profile.exists:
        found.append("budget=20%")
    if service.queue >= 4:
        found.append(f"queue={service.queue // 4}")
    return found


def with_words(setup: Setup, words: str) -> Setup:
    """The setup under the policy that `words` describe.

    Raises:
        InvalidPolicy: unknown word or service, a value out of range, or no service to apply it to.
    """
    if words == AS_IT_IS:
        return setup
    text, _, name = words.partition("@")
    service = _service(setup, words, name)
    for word in text.split(","):
        setup = _changed(setup, setup.app.service(service), words, word.strip())
    return setup


def _service(setup: Setup, words: str, name: str) -> str:
    if not name:
        faulted = faulted_service(setup)
        if faulted is None:
            raise InvalidPolicy(f"--policy {words}: the faults hit no service; name one: {words}@SERVICE")
        return faulted.name
    names = [service.name for service in setup.app.services]
    if name not in names:
        raise InvalidPolicy(f"--policy {words}: no service {name} in {setup.app.name}; it has {', '.join(names)}")
    return name


def _changed(setup: Setup, service: AppService, words: str, word: str) -> Setup:
    key, _, value = word.partition("=")
    rules = setup.rules[service.authority]
    match key:
        case "limit":
            limit = _count(words, value, 0)
            if rules.profile.exists:
                setup = with_profile(setup, service, msgspec.structs.replace(rules.profile, exists=False))
            return with_limit(setup, service, limit)
        case "budget":
            profile = budgeted(service)
            budget = profile.retry_budget
            assert budget is not None
            ratio = _share(words, value)
            return with_profile(
                setup,
                service,
                msgspec.structs.replace(profile, retry_budget=msgspec.structs.replace(budget, retry_ratio=ratio)),
            )
        case "timeout":
            return _with_timeout(setup, service, _seconds(words, value))
        case "queue":
            return with_service(setup, replace(service, queue=_count(words, value, 0)))
        case "replicas":
            return with_service(setup, replace(service, replicas=_count(words, value, 1, MAX_PODS)))
        case "cancels" if not value:
            if service.work != "wait":
                raise InvalidPolicy(f"--policy {words}: {service.name} burns CPU, and hears of no caller meanwhile")
            return with_service(setup, replace(service, cancels=True))
        case "breaker" if not value:
            breaker = msgspec.structs.replace(rules.policy, failure_accrual=FailureAccrualSpec())
            return with_policy(setup, service, breaker)
        case _:
            raise InvalidPolicy(f"--policy {words}: {word!r} is no policy; write {AS_IT_IS}, or {WORDS}")


def _with_timeout(setup: Setup, service: AppService, seconds: float) -> Setup:
    rules = setup.rules[service.authority]
    if rules.profile.exists:
        timed = tuple(msgspec.structs.replace(r, timeout_seconds=seconds) for r in rules.profile.routes)
        return with_profile(setup, service, msgspec.structs.replace(rules.profile, routes=timed))

    def limited(route: HttpRouteSpec) -> HttpRouteSpec:
        timeouts = msgspec.structs.replace(route.timeouts, response_seconds=seconds)
        return msgspec.structs.replace(route, timeouts=timeouts)

    routes = tuple(limited(route) for route in rules.policy.routes)
    return with_policy(setup, service, msgspec.structs.replace(rules.policy, routes=routes))


def _count(words: str, value: str, least: int, most: int = 1_000_000) -> int:
    if not value.isascii() or not value.isdigit() or not least <= int(value) <= most:
        raise InvalidPolicy(f"--policy {words}: {value!r} is not a whole number from {least} to {most}")
    return int(value)


def _share(words: str, value: str) -> float:
    try:
        share = float(value.removesuffix("%")) / 100.0 if value.endswith("%") else float(value)
    except ValueError:
        share = -1.0
    if not 0.0 <= share <= 10.0:
        raise InvalidPolicy(f"--policy {words}: {value!r} is not a share such as 20%")
    return share


def _seconds(words: str, value: str) -> float:
    try:
        seconds = parse_duration(value)
    except InvalidDuration as error:
        raise InvalidPolicy(f"--policy {words}: {error}") from None
    if seconds <= 0.0:
        raise InvalidPolicy(f"--policy {words}: a timeout is above 0s")
    return seconds
