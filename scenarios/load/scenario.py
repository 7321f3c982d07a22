"""Scenario files: read, overlaid with a variant and `--set`, checked. Format: docs/scenario-reference.md.

Every variant is read too, whichever is asked for: a typo in one that is chosen next month is found today.
"""

from __future__ import annotations

from collections.abc import Sequence as AbstractSequence
from pathlib import Path

from scenarios import catalogue
from scenarios.load.application import check_shares, read_application
from scenarios.load.document import Mapping, Node
from scenarios.load.expectations import read_abort_rule, read_expectation
from scenarios.load.faults import read_fault
from scenarios.load.fields import Fields
from scenarios.load.header import read_header
from scenarios.load.overlay import apply_overrides, lay_over
from scenarios.load.problems import Mark, Problems, display_path, quote, suggestion
from scenarios.load.resources import read_resources, read_service_annotations
from scenarios.load.slos import read_slos
from scenarios.model import Application, Expectation, FaultSpec, IdentitySettings, LoadSpec, Phases, Scenario, SloSpec

MAX_RUN_SECONDS = 4 * 3600.0
MAX_RATE = 5_000.0
"""Arrivals a second; beyond this the load driver, not the mesh, would be measured."""
_DAY = 86_400.0


def load_scenario(
    name_or_path: str | Path, *, variant: str | None = None, overrides: AbstractSequence[str] = ()
) -> Scenario:
    """A shipped scenario by name, or the one in a file or folder.

    `variant` is laid over it, then each override (`load.rate=80/s`, `faults.payment-slow.duration=20s`).

    Raises:
        InvalidScenario: it cannot be found, read or run; with every problem found.
    """
    problems = Problems()
    path = _find(name_or_path, problems)
    header = read_header(path, "Scenario", problems) if path is not None else None
    if path is None or header is None:
        problems.raise_if_any()
        raise AssertionError("a file without a header is a problem")
    metadata, spec = header
    identity = _Identity(metadata, path)
    variants = _variants(spec, problems)
    base = Mapping({k: v for k, v in spec.entries.items() if k != "variants"}, spec.key_marks, spec.mark)
    chosen = base
    if variant is not None:
        if variant not in variants:
            mark = Mark(display_path(path), spec.key_marks["variants"].line if "variants" in spec.key_marks else None)
            none = "; it has none" if not variants else suggestion(variant, variants)
            problems.add(mark, "variants", f"no variant {quote(variant)} of {identity.name or path}{none}")
        else:
            chosen = _overlaid(base, variants[variant].node)
    chosen = apply_overrides(chosen, overrides, problems)
    descriptions = {name: fields.text("description") for name, fields in variants.items()}
    scenario = _read(identity, chosen, variant, descriptions, problems)
    if not problems:
        for name, fields in variants.items():
            if name != variant:
                _read(identity, _overlaid(base, fields.node), name, descriptions, problems)
        if variant is not None or overrides:
            _read(identity, base, None, descriptions, problems)
    problems.raise_if_any()
    assert scenario is not None
    return scenario


def _find(name_or_path: str | Path, problems: Problems) -> Path | None:
    text = str(name_or_path)
    path = Path(text)
    try:
        if isinstance(name_or_path, str) and text in catalogue.names():
            return catalogue.path(text)
        if path.is_dir():
            return path / "scenario.yaml"
        if isinstance(name_or_path, Path) or "/" in text or path.suffix in (".yaml", ".yml") or path.exists():
            return path
    except (OSError, ValueError):  # a NUL or a name too long for the file system is no scenario's name either
        pass
    problems.add(Mark(quote(text)), "", f"no such scenario, file or folder{suggestion(text, catalogue.names())}")
    return None


class _Identity:
    """The metadata, which no variant changes."""

    def __init__(self, metadata: Fields, path: Path) -> None:
        self.path = path
        self.name = metadata.label("name")
        self.title = metadata.text("title")
        self.description = metadata.text("description", "")
        self.guide = metadata.texts("guide")
        metadata.done()


def _variants(spec: Mapping, problems: Problems) -> dict[str, Fields]:
    table = Fields(spec, "", problems).mapping("variants", required=False)
    found: dict[str, Fields] = {}
    for name, field, node in table.entries():
        fields = Fields(node, field, problems)
        if fields.has("variants"):
            fields.problem("variants", "a variant has no variants")
        if isinstance(node, Mapping):
            found[name] = fields
    return found


def _overlaid(base: Mapping, variant: Mapping) -> Mapping:
    entries = {key: value for key, value in variant.entries.items() if key not in ("description", "variants")}
    merged = lay_over(base, Mapping(entries, variant.key_marks, variant.mark))
    assert isinstance(merged, Mapping)
    return merged


def _read(
    identity: _Identity, node: Mapping, variant: str | None, variants: dict[str, str], problems: Problems
) -> Scenario | None:
    """One reading of a whole scenario; None where there is no application to check it against."""
    spec = Fields(node, "", problems)
    folder = identity.path.parent
    app_node = spec.required("app")
    app = _application(app_node, spec, folder, problems) if app_node is not None else None
    if app is None:
        return None
    certificates = _identity_settings(spec)
    load = _load(spec, app)
    phases = _phases(spec)
    faults = _faults(spec, app, certificates, phases, problems)
    slos = read_slos(spec, app, load, folder, problems)
    expectations = _expectations(spec, app, slos, problems)
    abort = tuple(read_abort_rule(entry, field, slos, problems) for field, entry in spec.items("abort"))
    resources = read_resources(spec, app, folder, problems)
    annotations = read_service_annotations(spec, app, problems)
    actions = spec.texts("actions")
    spec.done()
    return Scenario(
        name=identity.name,
        title=identity.title,
        description=identity.description,
        source=identity.path.resolve(),
        app=app,
        resources=resources,
        service_annotations=annotations,
        identity=certificates,
        load=load,
        phases=phases,
        faults=faults,
        slos=slos,
        expectations=expectations,
        abort=abort,
        guide=identity.guide,
        actions=actions,
        variant=variant,
        variants=variants,
    )


def _application(node: Node, spec: Fields, folder: Path, problems: Problems) -> Application | None:
    name = spec.reader.text(node, "app")
    if not name:
        return None
    if "/" in name or name.endswith((".yaml", ".yml")):
        path = folder / name
    elif name in catalogue.application_names():
        path = catalogue.application_path(name)
    else:
        problems.add(node.mark, "app", f"no app {quote(name)}{suggestion(name, catalogue.application_names())}")
        return None
    try:
        if not path.is_file():
            problems.add(node.mark, "app", f"no such file: {quote(name)}")
            return None
    except (OSError, ValueError):
        problems.add(node.mark, "app", f"no such file: {quote(name)}")
        return None
    within = Problems()
    app = read_application(path, within)
    if within:
        within.copy_to(problems)
        return None
    return app


def _identity_settings(spec: Fields) -> IdentitySettings:
    fields = spec.mapping("identity", required=False)
    settings = IdentitySettings(
        leaf_lifetime=fields.duration("leafLifetime", _DAY, maximum=365 * _DAY),
        clock_skew=fields.duration("clockSkew", 20.0, zero=True, maximum=_DAY),
        min_refresh=fields.duration("minRefresh", 10.0, maximum=_DAY),
        max_refresh=fields.duration("maxRefresh", _DAY, maximum=365 * _DAY),
    )
    if settings.min_refresh > settings.max_refresh:
        fields.problem("minRefresh", "is longer than maxRefresh")
    if fields.has("leafLifetime") and settings.leaf_lifetime < 2.0:
        fields.problem("leafLifetime", "is below 2s; a leaf would expire while its pod starts")
    fields.done()
    return settings


def _load(spec: Fields, app: Application) -> LoadSpec:
    fields = spec.mapping("load")
    journeys = [journey.name for journey in app.journeys]
    mix = {journey.name: journey.share for journey in app.journeys if journey.share > 0}
    if fields.has("mix"):
        table = fields.mapping("mix")
        mix = {}
        for name, field, node in table.entries():
            if name not in journeys:
                known = suggestion(name, journeys)
                table.problems.add(
                    table.key_mark(name), field, f"no journey {quote(name)} in topology {app.name}{known}"
                )
            mix[name] = table.reader.share(node, field)
        if not mix:
            fields.problem("mix", "names no journey")
        check_shares(mix, fields.at("mix"), fields.name_of("mix"), fields.problems)
    load = LoadSpec(
        rate=fields.rate("rate", maximum=MAX_RATE),
        mix={name: share for name, share in mix.items() if share > 0},
        max_in_flight=fields.integer("maxInFlight", 500, minimum=1, maximum=100_000),
        timeout=fields.duration("timeout", 10.0, maximum=300.0),
    )
    fields.done()
    return load


def _phases(spec: Fields) -> Phases:
    fields = spec.mapping("phases")
    phases = Phases(
        warmup=fields.duration("warmup"),
        baseline=fields.duration("baseline"),
        inject=fields.duration("inject"),
        recover=fields.duration("recover"),
    )
    fields.done()
    total = phases.warmup + phases.baseline + phases.inject + phases.recover
    if total > MAX_RUN_SECONDS:
        spec.problem("phases", f"add up to {total:g}s; {MAX_RUN_SECONDS:g}s at most")
    return phases


def _faults(
    spec: Fields, app: Application, identity: IdentitySettings, phases: Phases, problems: Problems
) -> tuple[FaultSpec, ...]:
    faults: list[FaultSpec] = []
    for field, node in spec.items("faults", required=True):
        fault = read_fault(node, field, app, identity, phases.inject, problems)
        if fault.name and any(known.name == fault.name for known in faults):
            problems.add(node.mark, f"{field}.name", f"{quote(fault.name)} names two faults")
        faults.append(fault)
    return tuple(faults)


def _expectations(
    spec: Fields, app: Application, slos: tuple[SloSpec, ...], problems: Problems
) -> tuple[Expectation, ...]:
    found = (read_expectation(node, field, app, slos, problems) for field, node in spec.items("expectations"))
    return tuple(expectation for expectation in found if expectation is not None)
