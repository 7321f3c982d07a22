"""The components on Kubernetes: what they read through the API server, and in which order they start.

    identity      issuer Secret ─► own leaf ─► serve         beside it: events, leader election ─► trust anchors copied
    destination   all kinds listed once, own leaf ─► serve
    policy        as destination                             beside it: admission webhook, leader election ─► statuses

Nothing here gives up: a Secret that is missing, an API server that is away or refuses, all are waited for, with
`/ready` saying no and the log saying why. Once it serves, a component goes on with its last state whatever becomes of
the API server, and `/ready` stays yes: an unready control plane would be taken out of its Service, which helps nobody.
"""

from __future__ import annotations

import asyncio
import os
import socket
import time
from typing import TYPE_CHECKING

from mesh.control.admin import admin_handler
from mesh.control.admission import Admission
from mesh.control.admission.webhook import judge, place
from mesh.control.certify import IssuerUnavailable, LeafTerms, Refused
from mesh.control.config import Address, DiscoveryConfig, IdentityConfig, KubernetesConfig
from mesh.control.credentials import server_credentials
from mesh.control.discovery import Discovery
from mesh.control.http import HttpServer
from mesh.control.identity import Identity
from mesh.control.issuer import POLL_SECONDS, Issuers
from mesh.control.issuer_secret import IssuerSecret
from mesh.control.log import Log
from mesh.control.metrics import Metrics
from mesh.control.process import NoCluster
from mesh.control.registry.kubernetes import READ_BY_DESTINATION, READ_BY_POLICY, KubernetesRegistry, register_informers
from mesh.control.renewal import Renewal
from mesh.control.status.writer import StatusWriter
from mesh.control.token_review import TokenReviews
from mesh.control.tokens import ServiceAccount
from mesh.control.trust_bundle import TrustBundle
from mesh.control.webhook.server import WebhookServer
from mesh.kube.api import Api
from mesh.kube.client import ClusterUnreachable, find_config, service_account_config
from mesh.kube.events import ISSUED_LEAF, ISSUER_UPDATED, ISSUER_VALIDATION_FAILED, About, Events
from mesh.kube.lease import Election
from mesh.kube.permissions import IDENTITY_LEASE, ISSUER, POLICY_LEASE

if TYPE_CHECKING:
    from mesh.control.process import Process


class Cluster:
    """Starts components in `process` that live on one API server."""

    def __init__(self, config: KubernetesConfig, process: Process) -> None:
        """Raises NoCluster."""
        self._process = process
        self._namespace = config.controller_namespace
        try:
            found = find_config(None, config.kubeconfig) if config.kubeconfig else service_account_config()
        except ClusterUnreachable as error:
            raise NoCluster(str(error)) from None
        self._api = Api.of(found)
        self._me = f"{os.environ.get('HOSTNAME') or socket.gethostname()}-{os.getpid()}"

    async def start_identity(self, config: IdentityConfig) -> None:
        process, namespace = self._process, self._namespace
        log, metrics = process.tools(config.server)
        events = Events(self._api, "linkerd-identity", self._me, log)
        about = About("Secret", namespace, ISSUER)

        def tell(reason: str, text: str) -> None:
            events.tell(about, reason, text, "Normal" if reason == ISSUER_UPDATED else "Warning")

        def issued(account: ServiceAccount, text: str) -> None:
            events.tell(About("ServiceAccount", account.namespace, account.name), ISSUED_LEAF, text)

        def refused(cause: Refused) -> None:
            if isinstance(cause, IssuerUnavailable):
                tell(ISSUER_VALIDATION_FAILED, str(cause))

        secret = IssuerSecret(self._api, namespace, log)
        issuers = Issuers(secret.content, process.anchors.certificates, log, metrics, time.time, tell)
        credentials = server_credentials(config.server.local_name, process.anchors.certificates, require_client=False)
        process.anchors.on_change(issuers.trust)
        process.anchors.on_change(credentials.trust)
        identity = Identity(
            issuers,
            TokenReviews(self._api),
            LeafTerms(config.leaf_lifetime, config.clock_skew),
            process.trust_domain,
            credentials,
            log,
            metrics,
            issued=issued,
            refused=refused,
        )
        election = Election(self._api, namespace, IDENTITY_LEASE, self._me, log)
        bundle = TrustBundle(self._api, namespace, election, log, metrics)
        register_informers(metrics, [secret.informer, *bundle.informers])
        metrics.gauge("leader", "Whether this replica copies the trust anchors", lambda: float(election.leads))
        server = HttpServer("identity", identity.handle, metrics, credentials.context)
        serving = asyncio.Event()
        await process.admin(config.server.admin, admin_handler(metrics, serving.is_set), metrics)
        await process.bind(server, config.server.listen)

        async def serve() -> None:
            await secret.informer.wait_synced()
            while not issuers.poll():
                await asyncio.sleep(POLL_SECONDS)
            identity.certify_itself()
            await server.serve()
            serving.set()
            log.info("serving", address=config.server.listen, name=config.server.local_name)
            await identity.watch_issuer()

        for work in (secret.informer.run(), secret.reread(), events.run(), election.run(), bundle.run(), serve()):
            process.spawn(work, log)

    async def start_discovery(self, config: DiscoveryConfig) -> None:
        process = self._process
        log, metrics = process.tools(config.server)
        serves_policy = config.server.component == "policy"
        registry = KubernetesRegistry(self._api, READ_BY_POLICY if serves_policy else READ_BY_DESTINATION, log, metrics)
        discovery = Discovery(registry, log, metrics, config.cluster)
        credentials = server_credentials(config.server.local_name, process.anchors.certificates, require_client=True)
        process.anchors.on_change(credentials.trust)
        renewal = Renewal(credentials, config.identity, config.token, config.min_refresh, log, metrics)
        handler = discovery.policy_handler() if serves_policy else discovery.destination_handler()
        debug = discovery.policy_debug_handler() if serves_policy else discovery.destination_debug_handler()
        server = HttpServer(config.server.component, handler, metrics, credentials.context)
        loaded, serving = asyncio.Event(), asyncio.Event()
        await process.admin(config.server.admin, admin_handler(metrics, serving.is_set, debug), metrics)
        await process.bind(server, config.server.listen)

        async def serve() -> None:
            await asyncio.gather(loaded.wait(), renewal.first())
            await server.serve()
            serving.set()
            log.info("serving", address=config.server.listen, name=config.server.local_name)
            await renewal.run()

        async def follow() -> None:
            await registry.first()
            discovery.load()
            loaded.set()
            await discovery.watch_registry()

        for work in (registry.run(), serve(), follow()):
            process.spawn(work, log)
        if serves_policy:
            self._write_statuses(discovery, loaded, log, metrics)
        if config.admission is not None:
            await self._admit(config.admission, discovery, log, metrics)

    async def _admit(self, address: Address, discovery: Discovery, log: Log, metrics: Metrics) -> None:
        """Not part of `/ready`: proxies need policy also where the webhook's certificate is in trouble."""
        admission = Admission(lambda: discovery.watches.state.index.servers)
        webhook = WebhookServer(self._api, place(self._namespace), {"/": judge(admission, log, metrics)}, log, metrics)
        await self._process.bind(webhook.server, address)
        self._process.spawn(webhook.run(), log)

    def _write_statuses(self, discovery: Discovery, loaded: asyncio.Event, log: Log, metrics: Metrics) -> None:
        election = Election(self._api, self._namespace, POLICY_LEASE, self._me, log)
        writer = StatusWriter(self._api, lambda: discovery.watches.state.index, election, log, metrics)
        discovery.on_publish(writer.look_again)
        metrics.gauge("leader", "Whether this replica writes statuses", lambda: float(election.leads))

        async def write() -> None:
            await loaded.wait()  # before, every parent would seem to be missing
            await writer.run()

        self._process.spawn(election.run(), log)
        self._process.spawn(write(), log)
