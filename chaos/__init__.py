"""Faults, the ledger that undoes them, and the chaostoolkit extension."""
