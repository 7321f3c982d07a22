"""A suite: which runs the acceptance protocol needs, in the order in which they are worth most.

A suite file names cases; a case is a scenario with a variant, overrides, and loads. `read_suite` makes runs of them,
seed by seed, and within a seed load by load, so that a suite that is stopped after an hour has seen every family once
before any twice. A run's folder carries a hash of the scenario as it is run: change one number and it is another run,
change none and the finished run is taken as it is.

Whether a case is held out is written in the file and not computed: what nobody looked at while tuning is a promise.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Literal

import msgspec
import yaml

from chaos.plan import plan
from gameday.errors import BadInput
from reports.run import scenario_to
from scenarios import catalogue
from scenarios.load import InvalidScenario, load_scenario
from scenarios.load.problems import quote
from scenarios.model import Scenario
from sim.forecast.discrepancy import family_of

Part = Literal["tuning", "held-out"]
_HERE = Path(catalogue.__file__).parent
SHIPPED = {"local": _HERE / "accuracy.yaml", "loads": _HERE / "accuracy-loads.yaml"}
NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,99}")
"""A case's: folders and files are called by it."""


class Case(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    """One line of a suite file."""

    name: str
    scenario: str
    """A shipped one's name, or a path from the suite's file."""
    variant: str | None = None
    family: str | None = None
    """What results are grouped by; the kinds of its faults, where none is given."""
    part: Part = "tuning"
    control: bool = False
    """Nothing must be forecast to break."""
    loads: tuple[str, ...] = ()
    """The suite's, where empty."""
    set: tuple[str, ...] = ()


class _Spec(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    loads: tuple[str, ...]
    held_out_loads: tuple[str, ...]
    cases: tuple[Case, ...]


class _Metadata(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    name: str


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    api_version: Literal["gameday.dev/v1"]
    kind: Literal["AccuracySuite"]
    metadata: _Metadata
    spec: _Spec


@dataclass(frozen=True, slots=True)
class PlannedRun:
    """One run of the suite."""

    case: Case
    scenario: Scenario
    load: str
    seed: int
    config: str
    """SHA-256 of the scenario as it is run, with the contents of its manifests, world and seed."""

    @property
    def overrides(self) -> tuple[str, ...]:
        return (f"load.rate={self.load}", *self.case.set)

    @property
    def name(self) -> str:
        return f"{self.case.name}-{self.load.replace('/', 'p').replace('.', '_')}-{self.seed}"

    @property
    def folder(self) -> str:
        return f"{self.name}-{self.config[:8]}"

    @property
    def family(self) -> str:
        return self.case.family or family_of(self.scenario.faults)

    @property
    def seconds(self) -> float:
        """Of the timed phases."""
        phases = self.scenario.phases
        return phases.warmup + phases.baseline + phases.inject + phases.recover


@dataclass(frozen=True, slots=True)
class Suite:
    name: str
    runs: tuple[PlannedRun, ...]
    impossible: tuple[str, ...]
    """Cases that this world cannot do, with the reason."""


def read_suite(name_or_path: str, seeds: int, only: Sequence[str], world: str = "local") -> Suite:
    """The runs of a suite, most telling first. `only`: shell patterns of case or family names; none means all.

    Raises:
        BadInput: no such suite, a mistake in it, or nothing that the patterns match.
    """
    path = SHIPPED.get(name_or_path, Path(name_or_path))
    file = _file(name_or_path, path)
    chosen: list[tuple[Case, tuple[str, ...]]] = []
    impossible: list[str] = []
    for case in file.spec.cases:
        loads = _loads(path, case, file.spec)
        first = _scenario(path, case, loads[0])
        if only and not any(
            fnmatch(text, pattern) for pattern in only for text in (case.name, case.family or family_of(first.faults))
        ):
            continue
        problems = plan(first, world).problems
        if problems:
            impossible.append(f"{case.name}: {problems[0]}")
        else:
            chosen.append((case, loads))
    if not chosen and not impossible:
        names = ", ".join(case.name for case in file.spec.cases)
        raise BadInput(f"--only {' '.join(only)}: matches no case; cases are {names}")
    return Suite(file.metadata.name, tuple(_in_order(path, chosen, seeds, world)), tuple(impossible))


def _file(name_or_path: str, path: Path) -> _File:
    """The suite's file, its cases' names checked."""
    try:
        body = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise BadInput(
            f"--suite {name_or_path}: {error.strerror}; name {' or '.join(SHIPPED)}, or the path of a suite file"
        ) from None
    except UnicodeDecodeError:
        raise BadInput(f"--suite {path}: is not UTF-8 text; name {' or '.join(SHIPPED)}, or a suite file") from None
    except RecursionError:
        raise BadInput(f"{path}: is nested too deep") from None
    except AttributeError:  # how PyYAML fails at it
        raise BadInput(f"{path}: a value with the tag !!timestamp is no time") from None
    except (yaml.YAMLError, ValueError) as error:  # ValueError: a date or a number that there is not
        raise BadInput(f"{path}: {' '.join(str(error).split())}") from None
    try:
        file = msgspec.convert(body, _File)
    except msgspec.ValidationError as error:
        raise BadInput(f"{path}: {' '.join(str(error).split())}") from None
    if not file.spec.cases:
        raise BadInput(f"{path}: spec.cases: names no case")
    names: set[str] = set()
    for case in file.spec.cases:
        if NAME.fullmatch(case.name) is None:
            raise BadInput(
                f"{path}: no case can be named {quote(case.name)}; folders are called by it: write up to 100 letters,"
                " digits, `_`, `-` and, but for the first, `.`"
            )
        if case.name in names:
            raise BadInput(f"{path}: two cases are named {case.name!r}; runs are kept by name")
        names.add(case.name)
    return file


def _loads(path: Path, case: Case, spec: _Spec) -> tuple[str, ...]:
    """The case's, or else the suite's for its part."""
    field, of_suite = ("heldOutLoads", spec.held_out_loads) if case.part == "held-out" else ("loads", spec.loads)
    loads = case.loads or of_suite
    if not loads:
        raise BadInput(f"{path}: case {case.name}: no load; give it `loads`, or the suite `{field}`")
    return loads


def _in_order(path: Path, chosen: list[tuple[Case, tuple[str, ...]]], seeds: int, world: str) -> list[PlannedRun]:
    read: dict[tuple[str, str], Scenario] = {}
    for case, loads in chosen:
        rates: dict[float, str] = {}
        for load in loads:
            scenario = read[case.name, load] = _scenario(path, case, load)
            if scenario.load.rate in rates:
                raise BadInput(
                    f"{path}: case {case.name}: {rates[scenario.load.rate]} and {load} come to the same load,"
                    f" {scenario.load.rate:g} a second; name it once"
                )
            rates[scenario.load.rate] = load
    runs: list[PlannedRun] = []
    rounds = max((len(loads) for _, loads in chosen), default=0)
    for seed in range(1, seeds + 1):
        for turn in range(rounds):
            for index, (case, loads) in enumerate(chosen):
                if turn >= len(loads):
                    continue
                # Alternating, so that the first round has both light and heavy load in it.
                load = loads[(index + seed + turn) % len(loads)]
                scenario = read[case.name, load]
                runs.append(PlannedRun(case, scenario, load, seed, config_of(scenario, world, seed)))
    return runs


def _scenario(path: Path, case: Case, load: str) -> Scenario:
    name = path.parent / case.scenario if "/" in case.scenario else case.scenario
    try:
        return load_scenario(name, variant=case.variant, overrides=(f"load.rate={load}", *case.set))
    except InvalidScenario as error:
        raise BadInput(f"{path}: case {case.name}: {error.problems[0]}") from None


def config_of(scenario: Scenario, world: str, seed: int) -> str:
    """SHA-256 of what is run. Where files lie and what people wrote about them does not count."""
    stored = scenario_to(scenario)
    for prose in ("source", "title", "description", "actions", "guide", "variants", "resources", "expectations"):
        stored.pop(prose, None)
    stored["app"].pop("source", None)
    for service in stored["app"]["services"]:
        # Younger than runs that are kept: where it is not asked for, a run is what it was before.
        if not service["cancels"]:
            del service["cancels"]
    for fault in stored["faults"]:
        fault.pop("line", None)
    stored["manifests"] = [_text(resource) for resource in scenario.resources]
    body = msgspec.json.encode([stored, world, seed], order="deterministic")
    return hashlib.sha256(body).hexdigest()


def _text(resource: Path) -> str:
    """A manifest's contents; of a stored run's whose files are gone, its name."""
    try:
        return resource.read_text()
    except FileNotFoundError:
        return resource.name
