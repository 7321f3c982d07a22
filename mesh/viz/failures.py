"""What an error of a connection is to the user, in few words."""

from __future__ import annotations

import ssl

import aiohttp


def describe(error: BaseException) -> str:
    """`connection refused` instead of what aiohttp makes of it."""
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        return f"its certificate is not accepted: {error.certificate_error}"
    cause = error.os_error if isinstance(error, aiohttp.ClientConnectorError) else error
    if isinstance(cause, ssl.SSLError):
        return f"TLS: {cause.reason or cause}"
    if isinstance(cause, TimeoutError):
        return "no answer in time"
    if isinstance(cause, OSError) and cause.strerror:
        # asyncio wraps the reason: "Connect call failed ('10.0.0.1', 80)"
        return "connection refused" if isinstance(cause, ConnectionRefusedError) else cause.strerror.lower()
    return str(cause) or type(cause).__name__
