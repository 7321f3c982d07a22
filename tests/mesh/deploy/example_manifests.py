"""Manifests as users write them: at least one of each kind, with every field that the mesh reads somewhere."""

from __future__ import annotations

from typing import Any

import yaml

EXAMPLES = """
apiVersion: linkerd.io/v1alpha2
kind: ServiceProfile
metadata: {name: cart.shop.svc.cluster.local, namespace: shop}
spec:
  routes:
    - name: GET /cart/{id}
      condition:
        all:
          - {method: get}
          - {pathRegex: '/cart/[^/]+'}
          - not: {any: [{method: POST}, {all: [{pathRegex: /x}, {not: {method: PUT}}]}]}
      isRetryable: true
      timeout: 300ms
      responseClasses:
        - condition: {all: [{status: {min: 500, max: 599}}, {not: {status: {min: 503, max: 503}}}]}
          isFailure: true
  retryBudget: {retryRatio: 0.2, minRetriesPerSecond: 10, ttl: 10s}
  dstOverrides:
    - {authority: cart-v1.shop.svc.cluster.local, weight: 900m}
    - {authority: 'cart-v2.shop.svc.cluster.local:8080', weight: 0.1}
    - {authority: cart-v3.shop.svc.cluster.local, weight: 1}
  opaquePorts: ["3306", 5432]
---
apiVersion: policy.linkerd.io/v1beta3
kind: Server
metadata: {name: cart, namespace: shop}
spec:
  podSelector:
    matchLabels: {app: cart}
    matchExpressions:
      - {key: tier, operator: In, values: [web, api]}
      - {key: legacy, operator: DoesNotExist}
  port: http
  proxyProtocol: HTTP/1
  accessPolicy: deny
---
apiVersion: policy.linkerd.io/v1beta1
kind: Server
metadata: {name: all, namespace: shop}
spec: {podSelector: {}, port: 8080}
---
apiVersion: policy.linkerd.io/v1beta1
kind: ServerAuthorization
metadata: {name: cart, namespace: shop}
spec:
  server: {name: cart}
  client:
    networks: [{cidr: 10.0.0.0/8, except: [10.1.0.0/16]}, {cidr: 'fd00::/8'}]
    meshTLS:
      identities: ['*.shop.serviceaccount.identity.linkerd.cluster.local']
      serviceAccounts: [{name: web}, {name: web, namespace: other}]
---
apiVersion: policy.linkerd.io/v1beta1
kind: ServerAuthorization
metadata: {name: open, namespace: shop}
spec:
  server: {selector: {matchLabels: {app: cart}}}
  client: {unauthenticated: true}
---
apiVersion: policy.linkerd.io/v1alpha1
kind: AuthorizationPolicy
metadata: {name: cart, namespace: shop}
spec:
  targetRef: {group: policy.linkerd.io, kind: Server, name: cart}
  requiredAuthenticationRefs:
    - {group: policy.linkerd.io, kind: MeshTLSAuthentication, name: web}
    - {group: policy.linkerd.io, kind: NetworkAuthentication, name: cluster, namespace: shop}
---
apiVersion: policy.linkerd.io/v1alpha1
kind: MeshTLSAuthentication
metadata: {name: web, namespace: shop}
spec: {identities: ['*', 'web.shop.serviceaccount.identity.linkerd.cluster.local', 'spiffe://example.org/web/1']}
---
apiVersion: policy.linkerd.io/v1alpha1
kind: MeshTLSAuthentication
metadata: {name: accounts, namespace: shop}
spec: {identityRefs: [{kind: ServiceAccount, name: web}, {kind: Namespace, name: shop}]}
---
apiVersion: policy.linkerd.io/v1alpha1
kind: NetworkAuthentication
metadata: {name: cluster, namespace: shop}
spec: {networks: [{cidr: 10.0.0.0/8}, {cidr: 192.168.1.1, except: []}]}
---
apiVersion: policy.linkerd.io/v1alpha1
kind: HTTPLocalRateLimitPolicy
metadata: {name: cart, namespace: shop}
spec:
  targetRef: {group: policy.linkerd.io, kind: Server, name: cart}
  total: {requestsPerSecond: 100}
  identity: {requestsPerSecond: 20}
  overrides:
    - {requestsPerSecond: 50, clientRefs: [{kind: ServiceAccount, name: web, namespace: shop}]}
---
apiVersion: policy.linkerd.io/v1alpha1
kind: EgressNetwork
metadata: {name: internet, namespace: shop}
spec: {trafficPolicy: Deny, networks: [{cidr: 0.0.0.0/0, except: [10.0.0.0/8]}]}
---
apiVersion: policy.linkerd.io/v1beta3
kind: HTTPRoute
metadata: {name: cart, namespace: shop}
spec:
  parentRefs: [{name: cart, kind: Service, group: core, namespace: shop, port: 8080}]
  hostnames: [cart.shop, '*.example.com']
  rules:
    - matches:
        - path: {type: PathPrefix, value: /cart}
          method: GET
          headers: [{name: x-canary, value: 'true'}, {name: x-user, type: RegularExpression, value: '[0-9]+'}]
          queryParams: [{name: v, value: '2', type: Exact}]
        - path: {type: Exact, value: /}
      filters:
        - type: RequestHeaderModifier
          requestHeaderModifier: {set: [{name: a, value: b}], add: [{name: c, value: d}], remove: [e]}
        - type: RequestMirror
          requestMirror: {backendRef: {name: shadow, port: 8080}, percent: 10}
      backendRefs:
        - {name: cart-v1, port: 8080, weight: 90}
        - name: cart-v2
          port: 8080
          weight: 10
          filters: [{type: ResponseHeaderModifier, responseHeaderModifier: {set: [{name: x-version, value: '2'}]}}]
      timeouts: {request: 1s, backendRequest: 300ms}
    - matches: [{path: {type: PathPrefix, value: /old}}]
      filters:
        - type: RequestRedirect
          requestRedirect:
            scheme: https
            hostname: new.example.com
            port: 8443
            statusCode: 301
            path: {type: ReplacePrefixMatch, replacePrefixMatch: /new}
    - matches: [{path: {type: PathPrefix, value: /rewritten}}]
      filters:
        - {type: URLRewrite, urlRewrite: {hostname: in.example, path: {type: ReplaceFullPath, replaceFullPath: /}}}
        - {type: HTTPFailureInjector, httpFailureInjector: {status: 503, ratio: {numerator: 1, denominator: 10}}}
---
apiVersion: policy.linkerd.io/v1beta3
kind: HTTPRoute
metadata: {name: cart-reads, namespace: shop}
spec:
  parentRefs: [{name: cart, kind: Server, group: policy.linkerd.io}]
  rules: [{matches: [{method: GET, path: {value: /cart}}]}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: web, namespace: shop}
spec:
  parentRefs: [{name: web, kind: Service, group: core, port: 80}]
  rules: [{backendRefs: [{name: web-v2, port: 80}]}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: GRPCRoute
metadata: {name: payment, namespace: shop}
spec:
  parentRefs: [{name: payment, kind: Service, group: core}]
  hostnames: [payment.shop]
  rules:
    - matches:
        - {method: {service: pay.Payment, method: Charge}, headers: [{name: x-a, value: b}]}
        - {method: {type: RegularExpression, service: 'pay\\..*'}}
      filters: [{type: RequestHeaderModifier, requestHeaderModifier: {remove: [x-a]}}]
      backendRefs: [{name: payment-v2, port: 8080, weight: 1}]
"""


def examples() -> list[dict[str, Any]]:
    return list(yaml.safe_load_all(EXAMPLES))


EXTERNAL_WORKLOAD = """
apiVersion: workload.linkerd.io/v1beta1
kind: ExternalWorkload
metadata: {name: vm, namespace: shop, labels: {app: legacy}}
spec:
  meshTLS: {identity: 'spiffe://example.org/vm', serverName: vm.shop.example}
  workloadIPs: [{ip: 192.0.2.7}]
  ports: [{port: 8080, name: http, protocol: TCP}]
"""
"""Not in `EXAMPLES`: the loader of files does not take it, the control plane on Kubernetes does."""
