"""Typed resources as users write them, and the messages between control plane and proxy."""
