"""Receivers of messages on this machine: a mail server, and an HTTP server that stores JSON."""

import json
import socket
import socketserver
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from email import message_from_bytes, policy
from email.message import EmailMessage
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, cast


class _MailHandler(socketserver.StreamRequestHandler):
    """SMTP as far as a client needs it to leave one message (RFC 5321, section 4.5.1)."""

    def handle(self) -> None:
        self._reply("220 here")
        while line := self.rfile.readline():
            verb = line[:4].upper()
            if verb == b"DATA":
                self._reply("354 go on")
                lines = []
                while (line := self.rfile.readline()) != b".\r\n":
                    lines.append(line.removeprefix(b".") if line.startswith(b"..") else line)
                message = message_from_bytes(b"".join(lines), policy=policy.default)
                cast("_MailServer", self.server).received.append(message)
            self._reply("221 bye" if verb == b"QUIT" else "250 OK")

    def _reply(self, text: str) -> None:
        self.wfile.write(f"{text}\r\n".encode())


class _MailServer(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True
    received: list[EmailMessage]


class _JsonHandler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        cast("_JsonServer", self.server).received.append(json.loads(body))
        self.send_response(200)
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        """Print nothing."""


class _JsonServer(ThreadingHTTPServer):
    received: list[dict[str, Any]]


@contextmanager
def receive_mail() -> Iterator[tuple[int, list[EmailMessage]]]:
    """Yield the port of a mail server, and the messages that it got."""
    with _MailServer(("127.0.0.1", 0), _MailHandler) as server:
        server.received = []
        yield from _serve(server)


@contextmanager
def receive_json(port: int = 0) -> Iterator[tuple[int, list[dict[str, Any]]]]:
    """Yield the port of an HTTP server, and the bodies that it got."""
    with _JsonServer(("127.0.0.1", port), _JsonHandler) as server:
        server.received = []
        yield from _serve(server)


@contextmanager
def accept_only() -> Iterator[int]:
    """Yield a port on which connections open and nothing ever answers."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


def _serve(server: Any) -> Iterator[tuple[int, Any]]:
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield server.server_address[1], server.received
    server.shutdown()
    thread.join()
