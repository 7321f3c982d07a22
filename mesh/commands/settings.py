"""Options that say what is installed: values, and where trust anchors and issuer come from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from cyclopts import Parameter

from mesh.api.values import InvalidValues, Values
from mesh.commands.errors import CommandFailed
from mesh.deploy.credentials import CredentialFiles
from mesh.deploy.values import read_values


@Parameter(name="*")
@dataclass(frozen=True, slots=True, kw_only=True)
class ValueOptions:
    """Values, later ones over earlier ones: --ha, --values, --set."""

    ha: bool = False
    """High availability: three replicas on different nodes, disruption budgets, failurePolicy Fail, memory limits."""
    values: tuple[Path, ...] = ()
    """YAML file of values. May be repeated."""
    set: tuple[str, ...] = ()
    """One value: `proxy.logLevel=debug`. May be repeated."""

    def read(self, base: Values | None = None, external: tuple[str, ...] = ()) -> Values:
        """The values; `external`: settings that other options stand for. Raises CommandFailed."""
        try:
            return read_values(base=base, high_availability=self.ha, files=self.values, settings=(*external, *self.set))
        except InvalidValues as error:
            raise CommandFailed(str(error)) from None


@Parameter(name="*")
@dataclass(frozen=True, slots=True, kw_only=True)
class IdentityOptions:
    """Where trust anchors and issuer come from; made anew without any of these."""

    identity_trust_anchors_file: Path | None = None
    """PEM with the trust anchors."""
    identity_issuer_certificate_file: Path | None = None
    """PEM with the issuer's certificate, and what lies between it and an anchor."""
    identity_issuer_key_file: Path | None = None
    """PEM with the issuer's key, ECDSA P-256."""
    identity_external_issuer: bool = False
    """The Secret linkerd-identity-issuer is kept by cert-manager or the like."""
    identity_external_ca: bool = False
    """The ConfigMap linkerd-identity-trust-roots is kept by trust-manager or the like, and the issuer too."""

    @property
    def files(self) -> CredentialFiles:
        return CredentialFiles(
            self.identity_trust_anchors_file, self.identity_issuer_certificate_file, self.identity_issuer_key_file
        )

    @property
    def external(self) -> tuple[str, ...]:
        """As settings, so that linkerd-config tells of them."""
        found = []
        if self.identity_external_issuer or self.identity_external_ca:
            found.append("identity.issuer.external=true")
        if self.identity_external_ca:
            found.append("identity.externalCA=true")
        return tuple(found)


DEFAULT_VALUES = ValueOptions()
DEFAULT_IDENTITY = IdentityOptions()
