"""Bytes and meaning: protocol machines and the table of refusals. Nothing here opens a socket or reads a clock."""
