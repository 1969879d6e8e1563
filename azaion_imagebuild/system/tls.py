"""TLS: checking its files, and a handshake before any request is sent."""

from __future__ import annotations

import contextlib
import os
import socket
import ssl
import time
from pathlib import Path

from ..errors import UsageError
from .files import check_plain

_LONGEST_WAIT = 1.0  # seconds


def checked_certificates(path: Path, what: str) -> Path:
    """Return ``path`` if it holds certificates (PEM) to trust.

    Raises:
        UsageError: it does not, or cannot be read; ``what`` names the setting.
    """
    try:
        check_plain(path)
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(path)
    except OSError as error:  # ssl.SSLError is one
        reason = "it holds no certificate" if isinstance(error, ssl.SSLError) else error.strerror
        raise UsageError(
            f"cannot use {path}: {reason}", hint=f"check {what}: a PEM file of certificates"
        ) from None
    return path


class _Locked(Exception):
    """A key cannot be read without its passphrase."""


def check_client_pair(cert: Path, key: Path | None, section: str) -> None:
    """Check that a client certificate and its key are usable and belong together.

    Raises:
        UsageError: they cannot; ``section`` names where client_cert and client_key are set.
    """

    def ask() -> str:
        raise _Locked  # OpenSSL would ask for it at the terminal

    try:
        for path in filter(None, (cert, key)):
            check_plain(path)
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_cert_chain(cert, key, ask)
    except _Locked:
        raise UsageError(
            f"{section} client_key: {key or cert} is locked with a passphrase",
            hint=f"unlock a copy: openssl pkey -in {key or cert} -out station.key; chmod 600"
            f" station.key; then set {section} client_key to it",
        ) from None
    except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
        raise UsageError(
            f"{section} client_cert, client_key: {_pair_problem(error, cert, key or cert)}",
            hint="set client_cert to this station's certificate and client_key to its private key,"
            " both PEM; client_key may be left out if client_cert holds the key, too",
        ) from None


def _pair_problem(error: Exception, cert: Path, key: Path) -> str:
    if getattr(error, "reason", None) == "KEY_VALUES_MISMATCH":
        return f"{key} is the key of another certificate than {cert}"
    if isinstance(error, OSError) and not isinstance(error, ssl.SSLError):
        return f"cannot read {error.filename or f'{cert} or {key}'}: {error.strerror}"
    try:
        checked_certificates(cert, "client_cert")
    except UsageError:
        return f"{cert} holds no certificate"
    return f"{key} holds no usable private key"


def host_certificates() -> str | None:
    """Return the file of the host's own certificates, as curl takes them; None if it has none."""
    found = ssl.get_default_verify_paths()
    for path in (found.cafile, "/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/cert.pem"):
        if path and Path(path).is_file() and os.access(path, os.R_OK):
            return path
    return None


def shake_hands(
    address: tuple[str, int],
    timeout: float,
    *,
    ca_file: str,
    name: str,
    client_cert: Path | None = None,
    client_key: Path | None = None,
) -> None:
    """Connect, and do the TLS handshake; send no request.

    With TLS 1.3, a server checks the client's certificate only after its own side of the handshake:
    wait for its alert as long as a reply has just taken.

    Args:
        address: host and port.
        timeout: seconds for the connection and the handshake each.
        ca_file: certificates to trust.
        name: the name that the server's certificate must have.
        client_cert: this client's own.
        client_key: its key; None: the certificate's file holds it.

    Raises:
        OSError: no connection, or one side did not accept the other (``ssl.SSLError``).
        ValueError: the name is not valid in DNS.
    """
    context = ssl.create_default_context(cafile=ca_file)
    if client_cert is not None:
        context.load_cert_chain(client_cert, client_key, lambda: "")
    with socket.create_connection(address, timeout) as plain:
        started = time.monotonic()
        with context.wrap_socket(plain, server_hostname=name) as secured:
            took = time.monotonic() - started
            secured.settimeout(min(_LONGEST_WAIT, 0.05 + 2 * took))
            with contextlib.suppress(TimeoutError, ConnectionError):
                secured.recv(1)
