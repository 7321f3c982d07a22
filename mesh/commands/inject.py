"""`gameday mesh inject` and `uninject`: manifests in, manifests out, without a cluster.

    cat app.yaml | gameday mesh inject - | kubectl apply -f -

`inject` writes the annotation that makes the injector inject the pods of a workload (or of a namespace); with --manual
the sidecar itself, as the injector would. `uninject` takes both away. What is neither workload nor namespace passes
through as it is. What happened stands on stderr, as Linkerd says it; the output is YAML only.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any

import yaml
from cyclopts import Parameter

from mesh.api.values import InvalidValues
from mesh.commands.errors import CommandFailed
from mesh.control.injector.offline import Outcome, annotate, take_out, write_in
from mesh.control.injector.patch import Cluster
from mesh.deploy.values import read_values

Files = Annotated[str, Parameter(allow_leading_hyphen=True)]
"""A lone hyphen is standard input."""
Change = Callable[[dict[str, Any]], Outcome]


def inject(
    *files: Files,
    manual: bool = False,
    ingress: bool = False,
    enable_debug_sidecar: Annotated[bool, Parameter(negative="", show=False)] = False,
    values: tuple[Path, ...] = (),
    set_value: Annotated[tuple[str, ...], Parameter(name="--set", negative="")] = (),
    annotation: tuple[str, ...] = (),
) -> int:
    """Make workloads in YAML be injected: files, folders, or - for standard input.

    Parameters
    ----------
    files
        YAML files or folders of them; - reads standard input.
    manual
        Write the sidecar into the manifests, instead of the annotation that makes the injector do it.
    ingress
        The pods are an ingress: requests go where their l5d-dst-override header says.
    values
        With --manual: files of install values, as of `gameday mesh install`.
    set_value
        With --manual: one install value, such as proxy.logLevel=debug.
    annotation
        Another annotation to write, such as config.linkerd.io/proxy-log-level=debug.
    """
    if enable_debug_sidecar:
        raise CommandFailed("--enable-debug-sidecar: there is no debug sidecar; use kubectl debug")
    extra = dict(_pair(text) for text in annotation)
    word = "ingress" if ingress else "enabled"
    if not manual:
        if values or set_value:
            raise CommandFailed("--values and --set: only with --manual; the injector has the values of the install")
        return _run(files, lambda object_: annotate(object_, word, extra), "injected")
    try:
        cluster = Cluster(read_values(files=values, settings=set_value))
    except InvalidValues as error:
        raise CommandFailed(str(error)) from None
    return _run(files, lambda object_: write_in(object_, word, extra, cluster), "injected")


def uninject(*files: Files) -> int:
    """Take sidecars and injection annotations out of YAML: files, folders, or - for standard input.

    Parameters
    ----------
    files
        YAML files or folders of them; - reads standard input.
    """
    return _run(files, take_out, "uninjected")


def _pair(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not name.strip():
        raise CommandFailed(f"--annotation: {text!r} is not name=value")
    return name.strip(), value


def _run(files: tuple[str, ...], change: Change, done: str) -> int:
    if not files:
        raise CommandFailed("no file given; name YAML files or folders, or - for standard input")
    documents: list[Any] = []
    outcomes: list[Outcome] = []
    wrong = next((name for name in files if len(name) > 1 and name.startswith("-")), None)
    if wrong is not None:
        raise CommandFailed(f"no option {wrong}; see --help")
    for name, text in _texts(files):
        try:
            found = [document for document in yaml.safe_load_all(text) if document is not None]
        except yaml.YAMLError as error:
            raise CommandFailed(f"{name}: not YAML ({' '.join(str(error).split())})") from None
        documents += [_changed(document, change, outcomes) for document in found]
    if documents:
        sys.stdout.write("---\n".join(_dump(document) for document in documents))
    _report(outcomes, done)
    return 0


def _changed(document: Any, change: Change, outcomes: list[Outcome]) -> Any:
    """A List's items are changed one by one; what is no object passes through."""
    if not isinstance(document, dict):
        outcomes.append(Outcome(document, "", "", skipped='document missing "kind" field'))
        return document
    items = document.get("items")
    if str(document.get("kind", "")).endswith("List") and isinstance(items, list):
        return document | {"items": [_changed(item, change, outcomes) for item in items]}
    outcome = change(document)
    outcomes.append(outcome)
    return outcome.object


def _texts(files: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    for name in files:
        if name == "-":
            yield "standard input", sys.stdin.read()
            continue
        path = Path(name)
        found = (
            sorted(one for one in path.rglob("*") if one.suffix in (".yaml", ".yml", ".json"))
            if path.is_dir()
            else [path]
        )
        for one in found:
            try:
                yield str(one), one.read_text("utf-8")
            except OSError as error:
                raise CommandFailed(f"{one}: {error.strerror or error}") from None
            except UnicodeDecodeError:
                raise CommandFailed(f"{one}: not text in UTF-8") from None


def _dump(document: Any) -> str:
    text: str = yaml.safe_dump(document, sort_keys=False, allow_unicode=True, width=4096)
    return text


def _report(outcomes: list[Outcome], done: str) -> None:
    """As Linkerd's: warnings first, then a line for each object."""
    print(file=sys.stderr)
    warned = [outcome for outcome in outcomes if outcome.warnings]
    for outcome in warned:
        for warning in outcome.warnings:
            print(f"‼ {outcome.kind}/{outcome.name}: {warning}", file=sys.stderr)
    if warned:
        print(file=sys.stderr)
    for outcome in outcomes:
        what = f'{outcome.kind} "{outcome.name}"' if outcome.kind else "document"
        said = f"skipped: {outcome.skipped}" if outcome.skipped else "skipped" if not outcome.changed else done
        print(f"{what} {said}", file=sys.stderr)
    print(file=sys.stderr)
