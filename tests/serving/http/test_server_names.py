"""The names of uvicorn that the protocol and the server use; `pyproject.toml` bounds its version."""

import asyncio
import inspect
import re

import pytest
import uvicorn
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from tailorbird.serving.http.listener import HttpServer
from tailorbird.serving.http.protocol import LimitedHttpProtocol

ASYNCIO = {"connection_made", "connection_lost", "data_received", "pause_writing", "resume_writing"}
HTTPTOOLS = {"on_message_begin", "on_url", "on_header", "on_headers_complete"}
HTTPTOOLS |= {"on_message_complete"}
UVICORN = {"on_response_complete", "timeout_keep_alive_handler"}


@pytest.fixture
def protocol():
    """The protocol of uvicorn alone, with a request begun."""
    loop = asyncio.new_event_loop()
    config = uvicorn.Config(lambda scope: None, ws="none", log_config=None)  # type: ignore[arg-type]
    protocol = HttpToolsProtocol(config, ServerState(), {}, loop)
    protocol.on_message_begin()
    yield protocol
    loop.close()


def used(pattern: str, code: type) -> set[str]:
    return set(re.findall(pattern, inspect.getsource(code)))


def test_only_callbacks_are_overridden(protocol):
    """A name that uvicorn adds, drops or renames changes this set."""
    assert (
        set(vars(LimitedHttpProtocol))
        & set(dir(protocol)) - set(dir(object)) - {"__module__", "__dict__", "__weakref__"}
        == ASYNCIO | HTTPTOOLS | UVICORN
    )
    server = uvicorn.Server(protocol.config)
    assert {name for name in vars(HttpServer) if name in dir(server) and name[0] != "_"} == {
        "handle_exit",
        "on_tick",
        "shutdown",
    }


def test_what_is_used_of_uvicorn_exists(protocol):
    own = set(vars(LimitedHttpProtocol)) | set(LimitedHttpProtocol.__annotations__)
    inherited = used(r"self\.(\w+)", LimitedHttpProtocol) - own
    assert inherited >= {"app", "cycle", "pipeline", "send_400_response"}
    assert inherited <= set(dir(protocol))
    assert not [name for name in inherited if name.startswith("_")]
    cycle = used(r"cycle\.(\w+)", LimitedHttpProtocol)
    assert cycle == {"disconnected", "more_body", "response_complete"}
    assert cycle <= set(RequestResponseCycle.__init__.__code__.co_names)
    flow = used(r"flow\.(\w+)", LimitedHttpProtocol)
    assert flow <= set(dir(FlowControl)) | set(FlowControl.__init__.__code__.co_names)
    assert hasattr(protocol.config, "loaded_app")
    own = set(vars(HttpServer)) | set(HttpServer.__init__.__code__.co_names)
    inherited = used(r"self\.(\w+)", HttpServer) - own
    server = uvicorn.Server(protocol.config)
    assert inherited - {"servers"} <= set(dir(server))  # made when it starts
    assert "servers" in uvicorn.Server.startup.__code__.co_names
    assert hasattr(server.server_state, "connections")
