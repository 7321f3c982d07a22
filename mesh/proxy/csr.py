"""`python -m mesh.proxy.csr NAME`: makes a P-256 key and a signing request, writes both to standard output, exits.

A process of its own, as Linkerd's `proxy-identity` is, because the cryptography package would add 12 MB to a proxy that
needs it once in its life. The key crosses a pipe between parent and child and is never in a file with a name.
"""

from __future__ import annotations

import sys

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec


def make_key_and_csr(name: str) -> tuple[str, str]:
    """PEM of a new key, and of a CSR whose one subject alternative name is the DNS name `name`."""
    key = ec.generate_private_key(ec.SECP256R1())
    names = x509.SubjectAlternativeName([x509.DNSName(name)])
    request = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).add_extension(names, critical=False)
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return pem.decode(), request.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM).decode()


if __name__ == "__main__":
    sys.stdout.write("".join(make_key_and_csr(sys.argv[1])))
