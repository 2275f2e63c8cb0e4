"""TLS and SASL PLAIN before a broker that does neither for us: opens what is encrypted, and answers
the two requests of SASL itself.

    request   length i32 | api i16 | version i16 | correlation i32 | …
    response  length i32 | correlation i32 | …
"""

import socket
import ssl
import struct
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

_API_VERSIONS, _HANDSHAKE, _AUTHENTICATE = 18, 17, 36
_REFUSED = 58  # SASL_AUTHENTICATION_FAILED


@dataclass(frozen=True)
class Certificates:
    """An authority, and what it signed: the server's (for 127.0.0.1) and a client's."""

    authority: Path
    server: Path
    client: Path
    stranger: Path  # another authority

    @staticmethod
    def make(folder: Path) -> "Certificates":
        for name in ("authority", "stranger"):
            _openssl(
                folder,
                "req",
                "-x509",
                "-newkey",
                "rsa:2048",
                "-nodes",
                "-days",
                "2",
                "-subj",
                f"/CN={name}",
                "-keyout",
                f"{name}.key",
                "-out",
                f"{name}.pem",
            )
        (folder / "names").write_text("subjectAltName=IP:127.0.0.1")
        for name in ("server", "client"):
            _openssl(
                folder,
                "req",
                "-newkey",
                "rsa:2048",
                "-nodes",
                "-subj",
                f"/CN={name}",
                "-keyout",
                f"{name}.key",
                "-out",
                f"{name}.csr",
            )
            _openssl(
                folder,
                "x509",
                "-req",
                "-in",
                f"{name}.csr",
                "-CA",
                "authority.pem",
                "-CAkey",
                "authority.key",
                "-days",
                "2",
                "-CAcreateserial",
                "-extfile",
                "names",
                "-out",
                f"{name}.pem",
            )
        return Certificates(
            *(folder / f"{name}.pem" for name in ("authority", "server", "client", "stranger"))
        )


def _openssl(folder: Path, *arguments: str) -> None:
    subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True)


@contextmanager
def tls_proxy(
    listener: socket.socket,
    target: int,
    certificates: Certificates,
    *,
    password: str = "",
    needs_client_certificate: bool = False,
) -> Iterator[None]:
    """Speak TLS for the broker on port `target`; with a `password`, user "shop" has to give it
    first.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificates.server, certificates.server.with_suffix(".key"))
    if needs_client_certificate:
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(certificates.authority)

    def accept() -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=serve, args=(client,), daemon=True).start()

    def serve(plain: socket.socket) -> None:
        with (
            suppress(OSError),
            context.wrap_socket(plain, server_side=True) as client,
            socket.create_connection(("127.0.0.1", target)) as broker,
        ):
            if not password or _authenticate(client, broker, password):
                threading.Thread(target=_copy, args=(broker, client), daemon=True).start()
                _copy(client, broker)

    thread = threading.Thread(target=accept, daemon=True)
    thread.start()
    try:
        yield
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join(5)


def _authenticate(client: socket.socket, broker: socket.socket, password: str) -> bool:
    """Return whether the client sends the password; before it only asks for API versions."""
    while True:
        frame = _read_frame(client)
        api, _, correlation = struct.unpack_from(">hhi", frame)
        if api == _API_VERSIONS:
            broker.sendall(_add_length(frame))
            client.sendall(_add_length(_read_frame(broker)))
        elif api == _HANDSHAKE:
            client.sendall(_add_length(struct.pack(">ihih", correlation, 0, 1, 5) + b"PLAIN"))
        elif api == _AUTHENTICATE:
            is_right = frame.endswith(b"\0shop\0" + password.encode())
            reply = b"" if is_right else b"wrong user or password"
            client.sendall(
                _add_length(
                    struct.pack(">ihh", correlation, 0 if is_right else _REFUSED, len(reply))
                    + reply
                    + struct.pack(">iq", 0, 0)
                )
            )
            return is_right
        else:
            return False


def _read_frame(source: socket.socket) -> bytes:
    return _receive_exactly(source, struct.unpack(">i", _receive_exactly(source, 4))[0])


def _receive_exactly(source: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        more = source.recv(size - len(data))
        if not more:
            raise OSError("closed")
        data += more
    return data


def _add_length(data: bytes) -> bytes:
    return struct.pack(">i", len(data)) + data


def _copy(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(65_536):
            target.sendall(data)
    for each in (source, target):
        with suppress(OSError):
            each.shutdown(socket.SHUT_RDWR)
