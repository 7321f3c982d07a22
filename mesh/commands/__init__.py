"""`gameday mesh …`: install the mesh on Kubernetes, inject, look at it, operate it. One file a command."""
