"""Reading from a Valkey that hangs, goes, comes back, and speaks TLS: what a socket adds to the
contract.
"""

import os
import shutil
import signal
import subprocess
import time

import pytest
from tests.support.network.ports import free_port
from tests.support.network.stores import BINARY, needs_valkey, start_server
from tests.support.network.tls_proxy import Certificates

from tailorbird.errors import ConfigError, StorageError
from tailorbird.store import CopiedStore, open_copies, open_store
from tailorbird.store.breaker import CircuitBreaker
from tailorbird.store.published import PublishedStore
from tailorbird.store.valkey import ACL_COMMANDS
from tailorbird.store.versions import CommitHead

pytestmark = needs_valkey


def filled(server, folder, url=""):
    """A server with one record."""
    published = PublishedStore(
        open_store(folder, create=True), open_copies(url or server.url, "test", timeout_s=5)
    )
    published.write(lambda transaction: transaction.put_many([(b"a", b"1")]))
    assert published.wait_until_copied(30), published.problem
    published.close()


def value(store):
    with store.snapshot() as snapshot:
        return snapshot.get(b"a")


def seconds_to_fail(store):
    started_at = time.monotonic()
    with pytest.raises(StorageError):
        value(store)
    return time.monotonic() - started_at


def test_a_server_that_hangs_costs_one_time_out_and_then_nothing_until_it_answers_again(tmp_path):
    moment = [0.0]
    breaker = CircuitBreaker(failures_max=2, open_s=1.0, monotonic=lambda: moment[0])
    with start_server(tmp_path / "server") as server:
        filled(server, tmp_path / "records")
        store = CopiedStore(open_copies(server.url, "test", breaker=breaker))
        assert value(store) == b"1"
        os.kill(server.pid, signal.SIGSTOP)
        try:
            assert seconds_to_fail(store) < 5
            assert seconds_to_fail(store) < 5
            with pytest.raises(StorageError, match="did not answer lately"):
                value(store)
            assert sum(seconds_to_fail(store) for _ in range(100)) < 1, "nobody is asked"
        finally:
            os.kill(server.pid, signal.SIGCONT)
        with pytest.raises(StorageError, match="did not answer lately"):
            value(store)
        moment[0] = 1.0
        assert value(store) == b"1"
        assert value(store) == b"1"


def test_a_reader_connects_again_when_the_server_is_back(tmp_path):
    with start_server(tmp_path / "server") as server:
        filled(server, tmp_path / "records")
        store = CopiedStore(open_copies(server.url, "test"))
        assert value(store) == b"1"
        server.kill()
        assert seconds_to_fail(store) < 5
        server.start()
        filled(server, tmp_path / "again")
        assert value(store) == b"1"


def test_a_wrong_answer_is_no_outage(tmp_path):
    breaker = CircuitBreaker(failures_max=1)
    with start_server(tmp_path / "server", "--requirepass", "right") as server:
        copies = open_copies(
            server.url.replace("//", "//:wrong@"), "test", timeout_s=5, breaker=breaker
        )
        for _ in range(2):
            with pytest.raises(StorageError, match="lets nobody in"):
                copies.head()


def test_a_user_of_the_servers_list_needs_its_own_keys_alone(tmp_path):
    with start_server(tmp_path / "server") as server:
        assert b"OK" in server.ask(f"ACL SETUSER shop on >pass ~tb:* {ACL_COMMANDS}")
        url = server.url.replace("//", "//shop:pass@")
        filled(server, tmp_path / "records", url)
        assert value(CopiedStore(open_copies(url, "test", timeout_s=5))) == b"1"
        server.ask("ACL SETUSER shop -mget -get")
        with pytest.raises(StorageError, match=r"(?s)refused a command.*\+get \+mget"):
            open_copies(url, "test", timeout_s=5).head()


@pytest.fixture(scope="module")
def certificates(tmp_path_factory):
    if shutil.which("openssl") is None:
        pytest.skip("no openssl here")
    return Certificates.make(tmp_path_factory.mktemp("certificates"))


@pytest.fixture
def encrypted(tmp_path, certificates):
    """A server that speaks TLS on one port and nothing else on another."""
    assert BINARY is not None
    if b"libssl" not in subprocess.run(["ldd", BINARY], capture_output=True, check=False).stdout:
        pytest.skip("this valkey-server was built without TLS")
    plain_port = free_port()
    options = [
        "--tls-port",
        str(plain_port),
        "--tls-auth-clients",
        "no",
        "--tls-ca-cert-file",
        str(certificates.authority),
    ]
    options += [
        "--tls-cert-file",
        str(certificates.server),
        "--tls-key-file",
        str(certificates.server.with_suffix(".key")),
    ]
    with start_server(tmp_path / "encrypted", *options):
        yield f"127.0.0.1:{plain_port}"


def test_tls_with_the_right_authority(tmp_path, encrypted, certificates):
    url = f"valkeys://{encrypted}?ssl_ca_certs={certificates.authority}"
    filled(None, tmp_path / "records", url)
    assert value(CopiedStore(open_copies(url, "test", timeout_s=5))) == b"1"


@pytest.mark.parametrize(
    ("option", "told"),
    [("ssl_ca=ca.crt", "does not know: 'ssl_ca'"), ("ssl_ca_certs=/no/ca.crt", "no such file")],
)
def test_an_option_of_no_use_is_told_before_anything_is_asked(option, told):
    with pytest.raises(ConfigError, match=told):
        open_copies(f"valkeys://127.0.0.1:1?{option}", "test")


def test_a_certificate_of_a_stranger_is_refused(encrypted, certificates):
    copies = open_copies(
        f"valkeys://{encrypted}?ssl_ca_certs={certificates.stranger}", "test", timeout_s=5
    )
    with pytest.raises(StorageError, match=r"certificate verify failed.*\n.*ssl_ca_certs"):
        copies.head()
    with pytest.raises(StorageError):
        copies.set_head(CommitHead(1, 1))


def test_plain_text_to_a_port_of_tls_is_an_error_and_no_hang(encrypted):
    started_at = time.monotonic()
    with pytest.raises(StorageError):
        open_copies(f"valkey://{encrypted}", "test", timeout_s=2).head()
    assert time.monotonic() - started_at < 10
