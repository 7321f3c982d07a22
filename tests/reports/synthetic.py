"""A made-up certificate-expiry run, complete in every table of the run store: for tests, and for looking at a report.

    python -m tests.reports.synthetic OUT_DIR      writes OUT_DIR/run.sqlite and the reports

Nothing here is a model of anything; it only has the right shape. Identity goes away at second 2, leaves expire around
second 18 pod by pod, checkout fails where a new connection is needed, identity returns at 42, all heals by 46.
"""

from __future__ import annotations

import hashlib
import math
import random
import sys
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path

import msgspec

from reports.build import write_reports
from reports.run import scenario_to
from reports.store import Event, Request, RunStore, Usage
from scenarios.model import (
    AbortRule,
    Application,
    AppRoute,
    AppService,
    Call,
    Expectation,
    FaultSpec,
    IdentitySettings,
    Journey,
    JourneyStep,
    LoadSpec,
    Phases,
    Scenario,
    ServiceTime,
    SloSpec,
)
from sim.results import (
    Counterfactual,
    CounterfactualSlo,
    Fan,
    Forecast,
    Prediction,
    Score,
    Scored,
)

BASE = 1_795_000_000.25
WARMUP, BASELINE, SEAL, INJECT, RECOVER = 8.0, 25.0, 16.0, 45.0, 30.0
RATE = 40.0
CHECKOUT, BROWSE = "POST storefront /checkout", "GET storefront /browse"


def _service(name: str, namespace: str, routes: tuple[AppRoute, ...]) -> AppService:
    return AppService(name, namespace, 8080, 2, 16, 64, "wait", routes)


def application() -> Application:
    """A retail platform of four services."""
    short = ServiceTime(0.008, 0.4)
    return Application(
        "retail",
        Path("scenarios/apps/retail.yaml"),
        (
            _service(
                "storefront",
                "shop",
                (
                    AppRoute("POST", "/checkout", short, ((Call("checkout", "POST", "/orders"),),)),
                    AppRoute("GET", "/browse", short, ((Call("catalog", "GET", "/items"),),)),
                ),
            ),
            _service("catalog", "shop", (AppRoute("GET", "/items", short),)),
            _service(
                "checkout", "pay", (AppRoute("POST", "/orders", short, ((Call("payment", "POST", "/charge"),),)),)
            ),
            _service("payment", "pay", (AppRoute("POST", "/charge", ServiceTime(0.02, 0.5)),)),
        ),
        (
            Journey("buy", 0.4, (JourneyStep("storefront", "POST", "/checkout"),)),
            Journey("look", 0.6, (JourneyStep("storefront", "GET", "/browse"),)),
        ),
    )


def scenario() -> Scenario:
    """The drill of the guide's scenario 3."""
    return Scenario(
        name="cert-expiry",
        title="The identity service stays away past the life of the certificates",
        description="When identity is down for longer than a leaf lives, proxies can no longer open connections.",
        source=Path("scenarios/cert-expiry/scenario.yaml"),
        app=application(),
        resources=(Path("scenarios/cert-expiry/mesh.yaml"),),
        service_annotations={"payment": {"retry.linkerd.io/http": "5xx", "retry.linkerd.io/limit": "2"}},
        identity=IdentitySettings(leaf_lifetime=20.0, clock_skew=1.0, min_refresh=1.0, max_refresh=20.0),
        load=LoadSpec(RATE, {"buy": 0.4, "look": 0.6}, 200, 2.0),
        phases=Phases(WARMUP, BASELINE, INJECT, RECOVER),
        faults=(
            FaultSpec("identity-away", "cert-expiry", 2.0, 40.0, {"component": "identity"}, {"signal": "KILL"}, 31),
        ),
        slos=(
            SloSpec("checkout", "storefront", "POST", "/checkout", 0.99, 0.5),
            SloSpec("browse", "storefront", "GET", "/browse", 0.995, None),
        ),
        expectations=(
            Expectation("Checkout loses its budget", "budget_spent", "checkout", "all", ">", 1.0),
            Expectation("New handshakes fail and are counted", "handshake_failures", None, "inject", ">", 0.0),
            Expectation(
                "The mesh heals by itself within ten seconds", "recovery_seconds", "checkout", "recover", "<=", 10.0
            ),
            Expectation("Browsing is not affected", "success_rate", "browse", "all", ">=", 0.999),
        ),
        abort=(AbortRule("checkout", 200.0, 20.0),),
        guide=("F3", "M3", "M9"),
        actions=(
            "Check `linkerd-identity`: is it running, can it reach its issuer secret?",
            "Restart identity; proxies renew with their service-account tokens within seconds.",
            "Alert on certificate life left, not on handshake errors: errors come when it is too late.",
        ),
        variant=None,
        variants={"short-outage": "identity returns before the leaves expire"},
    )


@dataclass(slots=True)
class SyntheticRun:
    """What to put into the store; change a field, then `write`."""

    scenario: Scenario = field(default_factory=scenario)
    seed: int = 7
    forecast: bool = True
    scored: bool = True
    injected: bool = True
    requests: bool = True
    metrics: bool = True
    state: str = "finished"
    exit_code: int | None = 1
    reasons: tuple[str, ...] = ("did not hold: Browsing is not affected (measured 0.9921)",)
    until: float = math.inf
    """Nothing happens from this second of the drill's clock on."""

    def write(self, path: Path) -> Path:
        """Makes the store; returns its path."""
        with RunStore(path, create=True) as store:
            _Writer(self, store).write()
        return path


def damage(route: str, second: float) -> float:
    """Share of bad requests at a second of the drill's clock."""
    weight = 1.0 if route == CHECKOUT else 0.16
    if 18.0 <= second < 43.0:
        return weight * min(1.0, (second - 18.0) / 6.0) * 0.62
    if 43.0 <= second < 46.0:
        return weight * 0.25 * (46.0 - second) / 3.0
    return 0.001


class _Writer:
    def __init__(self, run: SyntheticRun, store: RunStore) -> None:
        self.run = run
        self.store = store
        self.random = random.Random(run.seed)
        self.inject = BASE + WARMUP + BASELINE + SEAL

    def at(self, second: float) -> float:
        return self.inject + second

    def write(self) -> None:
        self._meta()
        self._events()
        if self.run.requests:
            self.store.add_requests(self._requests())
        if self.run.metrics:
            self._metrics()
        if self.run.forecast:
            self._forecast()

    def _meta(self) -> None:
        run = self.run
        bounds = {
            "warmup": BASE,
            "baseline": BASE + WARMUP,
            "seal": self.at(-SEAL),
            "inject": self.at(0),
            "recover": self.at(INJECT),
        }
        lengths = {"warmup": WARMUP, "baseline": BASELINE, "seal": SEAL, "inject": INJECT, "recover": RECOVER}
        windows = {
            name: [start, start + lengths[name]] for name, start in bounds.items() if start - self.inject < run.until
        }
        self.store.set_meta(
            run_id="20261118-101010-cert-expiry-5f2a",
            scenario=scenario_to(run.scenario),
            world="local",
            seed=run.seed,
            variant=run.scenario.variant,
            started_at=BASE - 6.0,
            state=run.state,
            exit_code=run.exit_code,
            reasons=list(run.reasons),
            versions={"gameday": "0.1.0", "python": "3.11.7", "system": "Linux x86_64", "chaostoolkit": "1.19.0"},
            config_sha256=hashlib.sha256(msgspec.json.encode(scenario_to(run.scenario))).hexdigest(),
            windows=windows,
            planned_injection_at=self.at(0),
            timings={"up": 6.0, "seal": SEAL, "judge": 8.2},
            overrides=[],
            plan="cert-expiry: identity down for 40 s",
        )

    def _events(self) -> None:
        events = [
            (BASE - self.inject, "gameday", "phase", "warmup", None),
            (-SEAL - BASELINE, "gameday", "phase", "baseline", None),
            (-SEAL, "gameday", "phase", "seal", None),
            (0.0, "gameday", "phase", "inject", None),
            (INJECT, "gameday", "phase", "recover", None),
        ]
        if self.run.injected:
            fault = {"fault": "identity-away", "kind": "cert-expiry"}
            events += [
                (2.04, "chaos", "inject", "identity-away: linkerd-identity killed and held down", fault),
                (2.05, "mesh", "down", "linkerd-identity is down", None),
                (24.0, "slo", "alert", "checkout burns at 27× over 5 s", {"slo": "checkout"}),
                (30.3, "mesh", "restart", "payment-1/app restarted after a failed probe", None),
                (42.02, "chaos", "revert", "identity-away: reverted", fault),
                (42.4, "mesh", "up", "linkerd-identity is up", None),
                (43.6, "mesh", "heal", "payment-0: certificate renewed after it had expired", None),
            ]
        for second, source, kind, text, data in sorted(events, key=lambda event: event[0]):
            if second < self.run.until:
                self.store.add_event(Event(self.at(second), source, kind, text, data))

    def _requests(self) -> Iterable[Request]:
        moment = BASE
        end = self.at(min(INJECT + RECOVER, self.run.until))
        while True:
            moment += self.random.expovariate(RATE)
            if moment >= end:
                return
            second = moment - self.inject
            route, journey = (CHECKOUT, "buy") if self.random.random() < 0.4 else (BROWSE, "look")
            latency = math.exp(self.random.gauss(math.log(0.042 if route == CHECKOUT else 0.019), 0.42))
            chance = self.random.random()
            if not self.run.injected or chance >= damage(route, second):
                yield Request(route, journey, moment, moment + 0.0004, moment + latency, 200)
            elif chance < damage(route, second) * 0.03:
                yield Request(route, journey, moment, None, None, None, "dropped")
            elif chance < damage(route, second) * 0.2:
                yield Request(route, journey, moment, moment + 0.0004, None, None, "timeout")
            else:
                slow = latency + self.random.choice((0.05, 0.3, 1.0))
                yield Request(
                    route, journey, moment, moment + 0.0004, moment + slow, self.random.choice((502, 503, 504))
                )

    def _metrics(self) -> None:
        pods = [f"{service.name}-{i}" for service in self.run.scenario.app.services for i in range(service.replicas)]
        pods.append("loadgen-0")
        counters = _Counters()
        seconds = range(int(-SEAL - BASELINE - WARMUP) + 1, int(min(INJECT + RECOVER, self.run.until)) + 1)
        for second in seconds:
            for index, pod in enumerate(pods):
                self._proxy(counters, pod, index, second)
                if pod != "loadgen-0":
                    self._app(counters, pod, second)
            counters.add("gameday", "scrapes_total", "", 2 * len(pods))
            counters.add("gameday", "scrapes_failed_total", "", 1 if second in (30, 31) else 0)
            for process, samples in counters.samples().items():
                self.store.add_samples(self.at(second), process, samples)
            self.store.add_usage(self._usage(pods, second))

    def _proxy(self, counters: _Counters, pod: str, index: int, second: int) -> None:
        process, service = f"{pod}/proxy", pod.rpartition("-")[0]
        hurt = damage(CHECKOUT, second) if self.run.injected else 0.0
        calls = {"loadgen": ("storefront", 40), "storefront": ("catalog", 12), "checkout": ("payment", 8)}
        if service in calls:
            parent, rate = calls[service]
            namespace = "pay" if parent == "payment" else "shop"
            labels = f'parent_name="{parent}",parent_namespace="{namespace}",route_name="default",http_status='
            bad = rate * hurt * (0.5 if service != "checkout" else 1.0)
            counters.add(process, "outbound_http_route_request_statuses_total", f'{labels}"200",error=""', rate - bad)
            counters.add(process, "outbound_http_route_request_statuses_total", f'{labels}"503",error="failfast"', bad)
            retries = f'parent_name="{parent}",parent_namespace="{namespace}"'
            counters.add(process, "outbound_http_route_retry_requests_total", retries, bad * 1.4)
        if service in ("storefront", "catalog", "checkout", "payment"):
            arrived = {"storefront": 20.0, "catalog": 12.0, "checkout": 8.0, "payment": 8.0 * (1 + 1.4 * hurt)}[service]
            counters.add(process, "request_total", 'direction="inbound",tls="true",client_id="x"', arrived)
            for bound in ("10", "20", "50", "100", "200", "500", "+Inf"):
                share = 1.0 if bound == "+Inf" else 1 - math.exp(-float(bound) / 30)
                counters.add(
                    process, "response_latency_ms_bucket", f'direction="inbound",le="{bound}"', arrived * share
                )
            counters.add(process, "response_latency_ms_sum", 'direction="inbound"', arrived * 28)
            counters.add(process, "response_latency_ms_count", 'direction="inbound"', arrived)
        if service == "loadgen":
            for bound in ("10", "20", "30", "40", "50", "100", "200", "300", "500", "1000", "+Inf"):
                share = 1.0 if bound == "+Inf" else 1 - math.exp(-float(bound) / (30 + 160 * hurt))
                counters.add(process, "response_latency_ms_bucket", f'direction="outbound",le="{bound}"', 40 * share)
        counters.add(process, "tls_handshakes_total", 'direction="outbound"', 0.3)
        if hurt > 0.01:
            counters.add(
                process, "tls_handshake_failures_total", 'direction="outbound",reason="certificate_expired"', 2
            )
        life = 21.0
        renewals = [moment + index * 0.7 for moment in (-44.0, -30.0, -16.0, -2.0)] + (
            [43.0 + index * 0.2] if self.run.injected else [12.0, 26.0, 40.0, 54.0, 68.0]
        )
        last = max((moment for moment in renewals if moment <= second), default=-44.0)
        counters.put(process, "control_identity_cert_expiration_timestamp_seconds", "", self.at(last) + life)
        counters.put(process, "control_identity_cert_refresh_timestamp_seconds", "", self.at(last))
        counters.put(process, "process_start_time_seconds", "", BASE - 5.0)
        counters.add(process, "control_update_latency_seconds_sum", "", 0.004)
        counters.add(process, "control_update_latency_seconds_count", "", 0.1)

    def _app(self, counters: _Counters, pod: str, second: int) -> None:
        service = self.run.scenario.app.service(pod.rpartition("-")[0])
        for route in service.routes:
            labels = f'route="{route.name}"'
            counters.add(f"{pod}/app", "app_requests_total", f'{labels},status="200"', 8)
            for bound, share in (("0.005", 0.2), ("0.01", 0.6), ("0.02", 0.9), ("+Inf", 1.0)):
                counters.add(f"{pod}/app", "app_service_seconds_bucket", f'{labels},le="{bound}"', 8 * share)
            counters.add(f"{pod}/app", "app_service_seconds_sum", labels, 8 * 0.009)
            counters.add(f"{pod}/app", "app_service_seconds_count", labels, 8)

    def _usage(self, pods: list[str], second: int) -> list[Usage]:
        age = second + SEAL + BASELINE + WARMUP
        return [
            usage
            for i, pod in enumerate(pods)
            for usage in (
                Usage(self.at(second), f"{pod}/proxy", age * (0.02 + 0.002 * i), 33_000_000 + 100_000 * i),
                Usage(self.at(second), f"{pod}/app", age * 0.06, 41_000_000),
            )
            if usage.process != "loadgen-0/app"
        ]

    def _forecast(self) -> None:
        rows = list(self._predictions())
        forecast = Forecast(
            schema="gameday.forecast/v1",
            scenario=self.run.scenario.name,
            variant=None,
            world="local",
            seed=self.run.seed,
            made_at=self.at(-4.4),
            planned_injection_at=self.at(0),
            replications=96,
            compute_seconds=10.6,
            calibration={"service_time_scale": 1.08, "proxy_delay_ms": 1.9, "leaf_margin": "from the pods' metrics"},
            predictions=tuple(rows),
            fans=tuple(self._fans()),
            limits=(
                "Connections are taken to live until a peer closes them.",
                "CPU contention on this machine is not modelled.",
            ),
        )
        body = msgspec.json.encode(forecast)
        digest = hashlib.sha256(body).hexdigest()
        self.store.put_document("forecast", self.at(-4.2), body)
        self.store.add_event(
            Event(self.at(-4.2), "gameday", "seal", f"forecast sealed, sha256 {digest}", {"sha256": digest})
        )
        if self.run.scored:
            self._score(rows)
            self._counterfactuals()

    def _predictions(self) -> Iterable[Prediction]:
        table: list[tuple[str, str, str, float, float, float | None]] = [
            ("success_rate", "checkout", "inject", 0.69, 0.03, 0.999),
            ("success_rate", "checkout", "recover", 0.991, 0.005, 0.999),
            ("success_rate", "checkout", "all", 0.81, 0.02, 0.999),
            ("success_rate", "browse", "inject", 0.972, 0.006, 1.0),
            ("success_rate", "browse", "all", 0.989, 0.004, 1.0),
            ("p50", "checkout", "inject", 0.052, 0.004, 0.042),
            ("p95", "checkout", "inject", 1.0, 0.06, 0.084),
            ("p99", "checkout", "inject", 1.09, 0.06, 0.11),
            ("p95", "checkout", "recover", 0.1, 0.02, 0.084),
            ("p95", "browse", "inject", 0.043, 0.006, 0.038),
            ("budget_spent", "checkout", "all", 19.0, 2.0, 0.1),
            ("budget_spent", "browse", "all", 2.2, 0.8, 0.0),
            ("attempts_per_request", "payment", "inject", 1.41, 0.05, 1.0),
            ("attempts_per_request", "checkout", "inject", 1.0, 0.02, 1.0),
        ]
        for quantity, subject, window, median, sigma, naive in table:
            ensemble = tuple(sorted(median + sigma * self.random.gauss(0, 1) for _ in range(96)))
            low, high = ensemble[4], ensemble[90]
            yield Prediction(
                quantity=quantity, subject=subject, window=window, low=low, median=ensemble[47], high=high,
                naive=naive, ensemble=ensemble, elasticity=0.5 if quantity.startswith("p") else None,
            )  # fmt: skip

    def _fans(self) -> Iterable[Fan]:
        steps = [float(i) for i in range(int(INJECT + RECOVER))]
        for name, route in (("checkout", CHECKOUT), ("browse", BROWSE)):
            wide = [0.03 + 0.3 * damage(route, s) for s in steps]
            middle = [1.0 - damage(route, s - 0.7) for s in steps]
            yield Fan(
                quantity="success_rate", subject=name, step_seconds=1.0, at=tuple(steps),
                low=tuple(max(0.0, m - w) for m, w in zip(middle, wide, strict=True)),
                median=tuple(middle),
                high=tuple(min(1.0, m + w) for m, w in zip(middle, wide, strict=True)),
            )  # fmt: skip
            p95 = [0.085 + (1.0 if route == CHECKOUT else 0.1) * damage(route, s - 0.7) for s in steps]
            yield Fan(
                quantity="p95", subject=name, step_seconds=1.0, at=tuple(steps),
                low=tuple(v * 0.62 for v in p95), median=tuple(p95), high=tuple(v * 1.6 for v in p95),
            )  # fmt: skip

    def _score(self, rows: list[Prediction]) -> None:
        from reports.measure import measure

        windows = self.store.meta()["windows"]
        measured = measure(self.store, self.run.scenario, windows)
        scored = []
        for row in rows:
            value = measured.get((row.quantity, row.subject, row.window))
            inside = row.low <= value <= row.high if value is not None else None
            crps = abs(value - row.median) * 0.6 if value is not None else None
            naive = abs(value - row.naive) if value is not None and row.naive is not None else None
            scored.append(
                Scored(
                    quantity=row.quantity,
                    subject=row.subject,
                    window=row.window,
                    low=row.low,
                    median=row.median,
                    high=row.high,
                    naive=row.naive,
                    measured=value,
                    inside=inside,
                    crps=crps,
                    crps_naive=naive,
                )
            )
        known = [row.inside for row in scored if row.inside is not None]
        score = Score(
            rows=tuple(scored),
            coverage=sum(known) / len(known) if known else None,
            crps=0.21,
            crps_naive=1.12,
            skill=0.8125,
        )
        self.store.put_document("score", self.at(INJECT + RECOVER + 2), msgspec.json.encode(score))

    def _counterfactuals(self) -> None:
        def change(text: str, spent: float, held: float, verified: str | None = None) -> Counterfactual:
            slo = CounterfactualSlo(
                name="checkout", budget_spent_low=spent * 0.8, budget_spent_median=spent,
                budget_spent_high=spent * 1.25, probability_held=held,
            )  # fmt: skip
            other = replace_slo(slo, "browse", spent * 0.05, min(1.0, held + 0.3))
            return Counterfactual(change=text, slos=(slo, other), holds=held >= 0.9, verified=verified)

        found = [
            change("as it was", 19.0, 0.0),
            change("leaf lifetime 20 s → 80 s", 0.1, 1.0, "run 20261118-110000: budget spent 0.12"),
            change("retry limit 2 → 0 at payment", 16.1, 0.0),
            change("identity returns 15 s earlier", 4.2, 0.02),
        ]
        self.store.put_document("counterfactuals", self.at(INJECT + RECOVER + 8), msgspec.json.encode(found))


def replace_slo(slo: CounterfactualSlo, name: str, median: float, held: float) -> CounterfactualSlo:
    return CounterfactualSlo(
        name=name, budget_spent_low=median * 0.7, budget_spent_median=median, budget_spent_high=median * 1.4,
        probability_held=held,
    )  # fmt: skip


class _Counters:
    """Counters that only rise, one exposition a second."""

    def __init__(self) -> None:
        self._values: dict[tuple[str, str, str], float] = {}

    def add(self, process: str, name: str, labels: str, amount: float) -> None:
        key = (process, name, labels)
        self._values[key] = self._values.get(key, 0.0) + amount

    def put(self, process: str, name: str, labels: str, value: float) -> None:
        self._values[process, name, labels] = value

    def samples(self) -> dict[str, list[tuple[str, str, float]]]:
        found: dict[str, list[tuple[str, str, float]]] = {}
        for (process, name, labels), value in self._values.items():
            found.setdefault(process, []).append((name, labels, value))
        return found


def hostile(base: Scenario | None = None) -> Scenario:
    """A scenario whose texts try to break out of every format."""
    base = base or scenario()
    nasty = '<script>alert(1)</script> & "quotes" | pipes | ]]> `ticks`'
    return replace(
        base,
        title=nasty,
        description=nasty,
        actions=(nasty,),
        expectations=tuple(replace(expectation, text=nasty) for expectation in base.expectations),
    )


if __name__ == "__main__":
    out = Path(sys.argv[1])
    out.mkdir(parents=True, exist_ok=True)
    (out / "run.sqlite").unlink(missing_ok=True)
    with RunStore(SyntheticRun().write(out / "run.sqlite")) as run_store:
        for written in write_reports(run_store, out):
            print(written)
