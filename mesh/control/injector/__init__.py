"""proxy-injector: the mutating webhook that gives pods their sidecar.

settings.py   values of the install ◄─ annotations of the namespace ◄─ annotations of the pod
sidecar.py    the containers and volumes that a pod gets
patch.py      may this pod be injected; the pod as it should be; the JSON Patch between
webhook.py    what it needs of the cluster, metrics and events
"""
