"""The control plane: identity, destination and policy, each alone or together."""
