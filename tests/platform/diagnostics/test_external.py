"""`tailorbird doctor` looks at what a project has elsewhere, and at servers whose logs are
topics.
"""

import json
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from tests.support.network.bucket import BUCKET, s3_server
from tests.support.network.ports import free_port
from tests.support.network.stores import needs_valkey, start_server

from tailorbird.cli.init import init
from tailorbird.config import open_project
from tailorbird.platform.diagnostics.external import Finding, check_external_services
from tailorbird.platform.runtime.servers import running_servers


def findings_of(folder: Path, settings: str) -> dict[str, Finding]:
    root = folder / "shop"
    if not root.exists():
        init(root, json=True)
    (root / "tailorbird.toml").write_text(settings)
    findings = {row[0]: row for row in check_external_services(open_project(root))}
    assert not any((root / "data").iterdir()), "nothing is changed by looking"
    return findings


@needs_valkey
def test_a_valkey_that_answers_one_that_does_not_and_one_that_evicts(tmp_path: Path) -> None:
    with start_server(tmp_path / "valkey") as server:
        row = findings_of(tmp_path, f'[store]\nurl = "{server.url}"')["store.url"]
        assert row[1:] == ("ok", f"{server.url} answers", "")
        server.ask("CONFIG SET maxmemory 100mb")
        server.ask("CONFIG SET maxmemory-policy allkeys-lru")
        assert (
            "drops records in silence"
            in findings_of(tmp_path, f'[store]\nurl = "{server.url}"')["store.url"][2]
        )
        unused_url = f"valkey://127.0.0.1:{free_port()}"
        two = findings_of(tmp_path, f'[store]\nurl = "{unused_url}"\nreplica = "{unused_url}"')
    assert {name: row[1] for name, row in two.items()} == {
        "store.url": "error",
        "store.replica": "error",
    }
    assert "store.replica right?" in two["store.replica"][3]


@pytest.mark.slow
def test_a_bucket_that_is_there_and_one_that_is_not(tmp_path: Path) -> None:
    with s3_server():
        assert findings_of(tmp_path, f'[lake]\nurl = "s3://{BUCKET}/shop"')["bucket"][1] == "ok"
        missing = findings_of(tmp_path, '[lake]\nurl = "s3://no-such-bucket/shop"')["bucket"]
    assert missing[1] == "error"
    assert "s3://no-such-bucket/shop" in missing[2]


def test_a_server_whose_log_is_a_topic_is_recognised_as_the_projects_own(tmp_path: Path) -> None:
    class Health(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()

    with HTTPServer(("127.0.0.1", 0), Health) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}"
        for name in ("serve-1", "host-serve-1"):
            (tmp_path / f"{name}.json").write_text(json.dumps({"url": url}))
        (tmp_path / "serve-2.json").write_text(
            json.dumps({"url": f"http://127.0.0.1:{free_port()}"})
        )
        (tmp_path / "serve-3.json").write_text("[]")
        (tmp_path / "features-compared.json").write_text("{}")
        assert list(running_servers(tmp_path)) == [url, url]
        server.shutdown()
