"""Certificates as files: some peers take no others."""

from __future__ import annotations

import pytest
import trustme

from tests.interop.servers.common import Certificates


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    directory = tmp_path_factory.mktemp("certificates")
    authority = trustme.CA()
    certificates = Certificates(directory / "authority.pem", directory / "server.pem")
    authority.cert_pem.write_to_path(certificates.authority)
    server = authority.issue_cert("localhost", "127.0.0.1")
    server.private_key_and_cert_chain_pem.write_to_path(certificates.server)
    return certificates
