"""The server's log of requests: an id in answer, error and log, and no personal data."""

import io
import json
import logging

import pytest
from starlette.testclient import TestClient
from tests.support.serving.app import PromptPipeline

from tailorbird.errors import BundleError
from tailorbird.events import RoutePlan, SystemClock
from tailorbird.serving.auth.keyfile import create_key
from tailorbird.serving.auth.keys import Keys
from tailorbird.serving.collector.collector import EventCollector
from tailorbird.serving.http.app import create_app
from tailorbird.serving.http.handling import Service
from tailorbird.serving.http.logs import REFUSED_LINES_PER_S, LineFormatter, RequestLog


@pytest.fixture(params=[True, False], ids=["json", "text"])
def written(request):
    """Collect the log lines of the test, formatted as `[serve] log` says."""
    out = io.StringIO()
    handler = logging.StreamHandler(out)
    handler.setFormatter(LineFormatter(as_json=request.param))
    handler.addFilter(lambda record: not record.name.startswith("httpx"))  # the test's own client
    root = logging.getLogger()
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    yield out
    root.removeHandler(handler)
    root.setLevel(level)


@pytest.fixture
def service(tmp_path):
    with EventCollector(tmp_path / "stream", "serve-1", RoutePlan(), SystemClock()) as collector:
        yield Service(PromptPipeline(), collector, request_log=RequestLog(log_all=True))


def client_of(service: Service) -> TestClient:
    return TestClient(
        create_app(service), base_url="http://127.0.0.1", raise_server_exceptions=False
    )


def test_a_request_keeps_its_id_through_answer_error_and_log(service, written):
    client = client_of(service)
    given = {"x-request-id": "trace-0123456789"}
    assert client.get("/healthz", headers=given).headers["x-request-id"] == given["x-request-id"]
    fault = client.post("/v1/recommend", json={"slot": "nope"}, headers=given)
    assert fault.json()["request_id"] == fault.headers["x-request-id"] == given["x-request-id"]
    assert written.getvalue().count("trace-0123456789") >= 2
    made = {client.get("/healthz").headers["x-request-id"] for _ in range(3)}
    assert len(made) == 3
    foreign = client.get("/healthz", headers={"host": "evil.example"})
    assert foreign.json()["request_id"] == foreign.headers["x-request-id"]


@pytest.mark.parametrize(
    "given",
    ["", "short", "x" * 65, "a b c d e f", "\x1b[31mred-alert", "{request}", "u@example.com.mail"],
)
def test_an_id_that_is_not_fit_for_a_log_is_replaced(service, written, given):
    used = (
        client_of(service).get("/healthz", headers={"x-request-id": given}).headers["x-request-id"]
    )
    assert used != given
    assert len(used) == 32
    assert not given or given not in written.getvalue()


def test_nobody_writes_a_line_of_their_own(written):
    logging.getLogger("x").warning("%s", "a\r\nERROR forged: b\x1b[2J\u2028c")
    lines = written.getvalue().splitlines()
    assert len(lines) == 1
    assert "\x1b" not in lines[0]


def test_a_flood_of_refused_requests_does_not_fill_the_disk(service, written):
    service.keys = Keys(read=["read-key-0123456789"])
    service.request_log = RequestLog()
    client = client_of(service)
    for _ in range(100):
        client.get("/v1/items/i1")
    assert 1 <= written.getvalue().count("/v1/items/{id}") <= REFUSED_LINES_PER_S + 40


def test_nor_does_a_flood_of_those_that_are_refused_for_load(written):
    log = RequestLog()
    for _ in range(1_000):
        log.record("/v1/recommend", 503, 0.001, "")
    assert 1 <= written.getvalue().count("/v1/recommend") <= REFUSED_LINES_PER_S + 40
    log.record("/v1/rank", 500, 0.001, "")
    assert written.getvalue().count("/v1/rank") == 1, "what failed is told each time"


CANARIES = {
    "user": "canary-user-7719",
    "anonymous": "canary-anon-7719",
    "session": "canary-session-7719",
    "item": "canary-item-7719",
    "query": "canary query 7719",
    "page": "https://canary.example/7719",
    "event": "canary-event-7719",
    "filter": "canary-filter-7719",
}


def test_no_output_tells_ids_questions_or_keys(service, written, tmp_path):
    """Canaries in every field of every request, and in the text of exceptions: logs, metrics,
    status and errors keep quiet.
    """
    file = tmp_path / "keys.json"
    token, record = create_key(file, "all", ["read", "write", "admin"], 1)
    plain_key = "canary-plain-key-7719"
    service.keys = Keys(read=[plain_key], file=file)
    secrets = [
        *CANARIES.values(),
        token,
        token.split("_", 2)[2],
        plain_key,
        record.hash,
        "canary-wrong-key-7719",
    ]

    def broken(query):
        raise BundleError(f"no {CANARIES['user']}")

    def bug(query):
        raise KeyError(CANARIES["query"])

    service.pipeline.rank, service.pipeline.search = broken, bug
    client = client_of(service)
    event = {
        "event_id": CANARIES["event"],
        "type": "click",
        "user_id": CANARIES["user"],
        "anonymous_id": CANARIES["anonymous"],
        "session_id": CANARIES["session"],
        "item_id": CANARIES["item"],
        "context": {"page": CANARIES["page"]},
        "properties": {"query": CANARIES["query"]},
    }
    who = {"user_id": CANARIES["user"], "session_id": CANARIES["session"], "slot": "home"}
    answers = []
    for key in (token, plain_key, "canary-wrong-key-7719", ""):
        headers = {"authorization": f"Bearer {key}"} if key else {}
        answers += [
            client.post("/v1/events", json=event, headers=headers),
            client.post("/v1/events", json={**event, "received_at": 1}, headers=headers),
            client.post(
                "/v1/events", json={**event, "context": {"country": "Norway"}}, headers=headers
            ),
            client.post("/v1/recommend", json=who, headers=headers),
            client.post("/v1/recommend", json={**who, "size": 0}, headers=headers),
            client.post("/v1/rank", json={**who, "items": [CANARIES["item"]]}, headers=headers),
            client.post(
                "/v1/search",
                json={**who, "query": CANARIES["query"], "filters": {"x": CANARIES["filter"]}},
                headers=headers,
            ),
            client.get(f"/v1/items/{CANARIES['item']}", headers=headers),
            client.get(f"/v1/items/{CANARIES['item']}/similar", headers=headers),
            client.get(f"/nope/{CANARIES['item']}?key={CANARIES['user']}", headers=headers),
            client.delete(f"/v1/items/{CANARIES['item']}", headers=headers),
        ]
    try:
        bug(None)
    except KeyError as error:  # as the server under the application logs what nobody foresaw
        logging.getLogger("uvicorn.error").error("Exception in ASGI application\n", exc_info=error)
    assert {answer.status_code for answer in answers} >= {200, 400, 401, 403, 404, 405, 500, 503}
    output = "\n".join(answer.text for answer in answers)
    headers = {"authorization": f"Bearer {token}"}
    output += (
        client.get("/metrics", headers=headers).text
        + client.get("/v1/status", headers=headers).text
        + client.get("/readyz").text
    )
    logged = written.getvalue()
    assert "KeyError" in logged
    assert "BundleError" in logged
    for secret in secrets:
        assert secret not in output
        assert secret not in logged
    for line in logged.splitlines() if logged.startswith("{") else ():
        assert {"time", "level", "logger", "message"} <= set(json.loads(line))
