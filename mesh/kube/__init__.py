"""Kubernetes as the control plane, the command line and the runner see it: client, resources, informers."""
