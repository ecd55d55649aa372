"""TLS as the command line has it: files that are read, and errors in the words of its options."""

from __future__ import annotations

import os
import ssl

from ._terminal import UsageError


def load_certificate(
    context: ssl.SSLContext, certificate: str, key: str | None, *, prefix: str = "--"
) -> None:
    """Have *context* show a certificate chain.

    Args:
        certificate, key: files; without a key, the certificate's file has it, too.
        prefix: what the options' names `cert` and `key` begin with.

    Raises:
        UsageError: it cannot.
    """
    asked = False

    def password() -> str:
        nonlocal asked
        asked = True
        return ""

    try:
        context.load_cert_chain(certificate, key, password=password)
    except ssl.SSLError as exc:
        if asked:
            raise UsageError(
                f"{prefix}key {key or certificate}: is protected by a password; "
                "'openssl pkey' makes one without"
            ) from exc
        reason = f" ({exc.reason})" if exc.reason else ""
        raise UsageError(
            f"{prefix}cert {certificate}: not a PEM certificate with its key{reason}; "
            f"give both in one file, or the key with {prefix}key"
        ) from exc
    except OSError as exc:
        # OpenSSL does not say which of the two it could not read.
        paths = [path for path in (certificate, key) if path and not os.access(path, os.R_OK)]
        raise UsageError(
            f"cannot read {' and '.join(paths) or certificate}: {exc.strerror}"
        ) from exc


def client_context(
    *, authority: str | None, certificate: str | None, key: str | None, insecure: bool
) -> ssl.SSLContext:
    """What a client makes of TLS.

    Args:
        authority: a file of certificates that are trusted beside the system's.
        certificate, key: what the server is shown if it asks.
        insecure: any server is trusted.

    Raises:
        UsageError: a file is no good, or a key has no certificate.
    """
    if key is not None and certificate is None:
        raise UsageError("--key needs --cert, the certificate it belongs to")
    try:
        context = ssl.create_default_context()
        if authority is not None:
            context.load_verify_locations(cafile=authority)
    except OSError as exc:  # an SSLError is one, too
        reason = exc.reason if isinstance(exc, ssl.SSLError) else exc.strerror
        raise UsageError(f"--ca {authority}: cannot be used: {reason}") from exc
    if insecure:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if certificate is not None:
        load_certificate(context, certificate, key)
    return context
