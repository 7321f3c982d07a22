"""A Linkerd-compatible service mesh: control plane and proxy."""
