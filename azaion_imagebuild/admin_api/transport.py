"""The connection to the admin API by the settings: token, headers, certificates."""

from __future__ import annotations

import os
from codecs import BOM_UTF8

from ..errors import UsageError
from ..secret import Secret
from ..settings import AdminApiSettings
from ..system.files import read_plain
from ..system.http import Transport
from ..system.tls import check_client_pair, checked_certificates

_LONGEST_TOKEN = 16 * 1024


def transport(settings: AdminApiSettings) -> Transport:
    """Return the connection to the admin API that the settings describe.

    Raises:
        UsageError: the token, a header or a certificate file is not usable.
    """
    _check_certificates(settings)
    for name, value in settings.headers.items():
        if not (name.isascii() and name.replace("-", "").isalnum() and _is_header_text(value)):
            raise UsageError(
                f"[admin_api] headers: {name!a} is not a valid header",
                hint="use letters, digits and hyphens in its name, and one line of ASCII in it",
            )
    for word in (settings.token_header, settings.token_scheme or "Bearer"):
        if not (word.isascii() and word.replace("-", "").isalnum()):
            raise UsageError(
                f"[admin_api] {word!a} is not a valid header name or scheme",
                hint="use letters, digits and hyphens in token_header and token_scheme",
            )
    return Transport(
        headers=settings.headers,
        token=_token(settings),
        token_header=settings.token_header,
        token_scheme=settings.token_scheme,
        client_cert=settings.client_cert,
        client_key=settings.client_key,
        ca_file=settings.ca_file,
        connect_timeout=settings.connect_timeout,
        read_timeout=settings.read_timeout,
        retries=settings.retries,
    )


def _check_certificates(settings: AdminApiSettings) -> None:
    for key in ("ca_file", "client_cert", "client_key"):
        path = getattr(settings, key)
        if path is not None and not (path.is_file() and os.access(path, os.R_OK)):
            raise UsageError(f"cannot read {path}", hint=f"check [admin_api] {key}")
    if settings.ca_file is not None:
        checked_certificates(settings.ca_file, "[admin_api] ca_file")
    if settings.client_cert is not None:
        check_client_pair(settings.client_cert, settings.client_key, "[admin_api]")
    elif settings.client_key is not None:
        raise UsageError(
            "[admin_api] client_key is set, but not client_cert",
            hint="set client_cert to the certificate of that key",
        )


def _token(settings: AdminApiSettings) -> Secret | None:
    if settings.token_env is not None:
        from ..system.process import hide_variable  # imported late: few sites have a token there

        hide_variable(settings.token_env)
    if settings.token_file is not None:
        source = str(settings.token_file)
        try:
            data = read_plain(settings.token_file, _LONGEST_TOKEN).removeprefix(BOM_UTF8)
            text = data.decode("ascii", "replace").strip()
        except OSError as error:
            raise UsageError(
                f"cannot read the token file {source}: {error.strerror}",
                hint="check [admin_api] token_file and its permissions",
            ) from None
    elif settings.token_env is not None:
        source = f"${settings.token_env}"
        text = os.environ.get(settings.token_env, "").strip()
    else:
        return None
    if not text or not _is_header_text(text) or " " in text:
        raise UsageError(
            f"{source} holds no usable token",
            hint="a token is one line of printable ASCII characters without spaces",
        )
    return Secret(text)


def _is_header_text(text: str) -> bool:
    return text.isascii() and text.isprintable()
