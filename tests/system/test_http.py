"""Whatever comes back over a connection, it ends in an answer or in a reason."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from azaion_imagebuild.system.http import JsonClient, Transport
from azaion_imagebuild.system.unreachable import Unreachable, unreachable

OK = b"HTTP/1.1 200 OK\r\n"
ANSWERS = {
    "nothing": b"",
    "no HTTP": b"SSH-2.0-OpenSSH_9.6\r\n",
    "another version": b"HTTP/9.9 200 OK\r\n\r\n",
    "no status": b"HTTP/1.1\r\n\r\n",
    "a status of letters": b"HTTP/1.1 abc OK\r\n\r\n",
    "a huge status": b"HTTP/1.1 99999 OK\r\n\r\n",
    "a negative status": b"HTTP/1.1 -20 OK\r\n\r\n",
    "an endless status line": b"HTTP/1.1 200 " + b"x" * 100_000,
    "an endless header": OK + b"X: " + b"x" * 100_000,
    "a thousand headers": OK + b"X: y\r\n" * 1000 + b"\r\n",
    "a header without a colon": OK + b"broken\r\n\r\n{}",
    "a header that is not Latin": OK + b"X: \xff\xfe\r\nContent-Length: 2\r\n\r\n{}",
    "a length of letters": OK + b"Content-Length: abc\r\n\r\n{}",
    "a negative length": OK + b"Content-Length: -5\r\n\r\n{}",
    "two lengths": OK + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}",
    "a huge length": OK + b"Content-Length: " + b"9" * 5000 + b"\r\n\r\n{}",
    "a chunk of letters": OK + b"Transfer-Encoding: chunked\r\n\r\nxyz\r\n{}",
    "a huge chunk": OK + b"Transfer-Encoding: chunked\r\n\r\n" + b"f" * 100 + b"\r\n{}",
    "a cut chunk": OK + b"Transfer-Encoding: chunked\r\n\r\n5\r\n{}",
    "an unknown encoding": OK + b"Transfer-Encoding: rot13\r\n\r\n{}",
    "no gzip": OK + b"Content-Encoding: gzip\r\nContent-Length: 2\r\n\r\n{}",
    "an encoding of bytes": OK + b"Content-Encoding: \xff\r\nContent-Length: 2\r\n\r\n{}",
    "a bad cookie": OK + b"Set-Cookie: \xff=\x01; Max-Age=" + b"9" * 5000 + b"\r\n\r\n{}",
    "a bad date in a cookie": OK + b"Set-Cookie: a=b; expires=soon; port=x\r\n\r\n{}",
    "many continues": b"HTTP/1.1 100 Continue\r\n\r\n" * 200 + OK + b"\r\n{}",
    "a switch": b"HTTP/1.1 101 Switching\r\nUpgrade: h2c\r\n\r\n",
    "a bad Location": b"HTTP/1.1 301 x\r\nLocation: http://\xff\r\nContent-Length: 0\r\n\r\n",
    "a bad Retry-After": b"HTTP/1.1 503 x\r\nRetry-After: \xff\r\nContent-Length: 0\r\n\r\n",
}


class Raw:
    """A server that answers every connection with the same bytes, and hangs up."""

    answer = b""
    url = ""


@pytest.fixture(scope="module")
def raw() -> Iterator[Raw]:
    state = Raw()
    server = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            try:
                connection, _ = server.accept()
            except OSError:
                return
            with connection:
                try:
                    connection.recv(65536)
                    connection.sendall(state.answer)
                    connection.shutdown(socket.SHUT_WR)
                    while connection.recv(65536):
                        pass
                except OSError:
                    pass

    thread = threading.Thread(target=serve)
    thread.start()
    state.url = f"http://127.0.0.1:{server.getsockname()[1]}"
    yield state
    server.shutdown(socket.SHUT_RDWR)
    server.close()
    thread.join()


def _sent(raw: Raw, answer: bytes) -> None:
    raw.answer = answer
    with JsonClient(raw.url, Transport(read_timeout=2.0)) as client:
        try:
            reply = client.send("POST", "/users", {"email": "x"})
        except Unreachable as error:
            said = str(error)
        else:
            said = reply.excerpt()
            assert len(reply.body) <= 65536
            reply.json()
    assert said.isprintable()
    assert len(said) <= 201


@pytest.mark.parametrize("name", ANSWERS)
def test_a_broken_answer_is_told_in_a_line(raw: Raw, name: str) -> None:
    _sent(raw, ANSWERS[name])


@settings(deadline=None, max_examples=60)
@given(
    head=st.sampled_from([b"", OK, b"HTTP/1.1 302 x\r\nLocation: ", OK + b"Content-Length: "]),
    rest=st.binary(max_size=80),
)
def test_any_bytes_are_an_answer_or_a_reason(raw: Raw, head: bytes, rest: bytes) -> None:
    _sent(raw, head + rest + b"\r\n\r\n{}")


@pytest.mark.parametrize(
    "reason", ["certificate has expired", "EE certificate key too weak", "invalid CA certificate"]
)
def test_why_a_certificate_is_not_valid_is_told_in_openssls_words(reason: str) -> None:
    said = f"[SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed: {reason} (_ssl.c:1007)"
    found = unreachable(ssl.SSLCertVerificationError(1, said))
    assert str(found) == f"TLS failed: certificate verify failed: {reason.lower()}"
