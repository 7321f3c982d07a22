"""`python -m mesh.viz`: scrapes and taps the proxies, serves what they say as JSON and as a small web UI.

    python -m mesh.viz --kubernetes
        --listen 0.0.0.0:8084        API (/api/…) and web UI (/); plain HTTP, reached through the API server
        --admin 0.0.0.0:9994         /live /ready /metrics
        --identity-addr linkerd-identity.linkerd.svc.cluster.local:8080
        --token /var/run/secrets/tokens/linkerd-identity-token
        --trust-anchors /var/run/linkerd/identity/trust-roots/ca-bundle.crt
        [--trust-domain cluster.local] [--controller-namespace linkerd] [--identity-name NAME] [--local-name NAME]
        [--namespace linkerd-viz]    where the Secret `viz-tap` is kept
        [--scrape-interval 5s] [--scrape-timeout 2s] [--scrape-concurrency 20] [--log-level info]

    --pods FILE instead of --kubernetes: a JSON list of pods (`mesh.viz.pods.Pod`), read anew when it changes; with
    [--tap-token FILE], the token that a client who taps must show; without it everybody who reaches the port may.

Without `--identity-addr`, `--token` and `--trust-anchors` there is no tap; everything else works.
What it needs of RBAC: `mesh.viz.permissions`. Memory for 500 busy pods: `mesh.viz.history`.

Exit codes: 0 stopped on request, 1 a bug, 2 flags or files that cannot be used.
"""

from __future__ import annotations

import sys

from mesh.viz.process import main

if __name__ == "__main__":
    sys.exit(main())
