"""TLS for the servers of a run.

Rules kept here: what is sent is of the same length each time, so that a seed decides when it
arrives: keys and signatures are RSA's, and there are no session tickets.
"""

from __future__ import annotations

import ssl
from functools import lru_cache
from typing import Final, NamedTuple

import trustme
from cryptography import x509

from .scenario import SERVERS

# Of a certificate's serial number, which is random: nearly all are so long.
_SERIAL_BITS: Final = range(152, 160)


class Contexts(NamedTuple):
    client: ssl.SSLContext
    server: ssl.SSLContext


@lru_cache
def contexts() -> Contexts:
    """Contexts for all clients and for all servers, made once: that takes a while."""
    authority = trustme.CA(key_type=trustme.KeyType.RSA)
    client = ssl.create_default_context()
    authority.configure_trust(client)
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    server.num_tickets = 0
    while True:
        certificate = authority.issue_cert(*SERVERS, key_type=trustme.KeyType.RSA)
        parsed = x509.load_pem_x509_certificate(certificate.cert_chain_pems[0].bytes())
        if parsed.serial_number.bit_length() in _SERIAL_BITS:
            certificate.configure_cert(server)
            return Contexts(client, server)
