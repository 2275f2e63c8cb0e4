"""Bodies that Atheris makes by watching which branches of the decoder they reach: python -m
tests.serving.http.fuzz_decoder SECONDS [CORPUS].

Whatever the bytes are, each row is accepted or refused with a code and a path, in order, and the
same twice; anything that is raised is a find, and its bytes are kept in a file `crash-…`.
Hypothesis does the same from grammars in `test_fuzz.py`, without watching.
"""

import json
import re
import sys
import tempfile
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["tailorbird.events"]):  # before anything else imports them
    from tailorbird.events import Receipt, RoutePlan, check_body

from tests.support.serving.bodies import VALID_EVENTS

from tailorbird.events.contract.codes import CODE_DESCRIPTIONS

RECEIPTS = (
    Receipt(1_795_000_000_000_000),
    Receipt(1_795_000_000_000_000, encoding="ndjson"),
    Receipt(1_795_000_000_000_000, source="import", encoding="ndjson"),
)
_PATH = re.compile(r"\$")


def decide(data: bytes) -> None:
    """The first byte says how the rest came in."""
    receipt, body = RECEIPTS[data[0] % len(RECEIPTS)] if data else RECEIPTS[0], data[1:]
    accepted, refused = check_body(body, receipt, RoutePlan())
    rows = sorted(each.row for each in (*accepted, *refused))
    assert rows == list(range(len(rows)))
    assert rows, "a body is at least one row"
    assert {each.code for each in refused} <= CODE_DESCRIPTIONS.keys()
    assert all(_PATH.match(each.path) and each.message for each in refused)
    assert check_body(body, receipt, RoutePlan()) == (accepted, refused)


def main() -> None:
    seconds = int(sys.argv[1])
    with tempfile.TemporaryDirectory() as seeds:
        folder = Path(sys.argv[2]) if len(sys.argv) > 2 else Path(seeds)
        folder.mkdir(exist_ok=True)
        for number, body in enumerate(
            (
                json.dumps(VALID_EVENTS),
                "\n".join(map(json.dumps, VALID_EVENTS)),
                *map(json.dumps, VALID_EVENTS),
            )
        ):
            (folder / f"valid-{number}").write_bytes(
                b"\x00\x01"[number % 2 : number % 2 + 1] + body.encode()
            )
        atheris.Setup(
            [sys.argv[0], str(folder), f"-max_total_time={seconds}", "-max_len=4096", "-timeout=5"],
            decide,
        )
        atheris.Fuzz()


if __name__ == "__main__":
    main()
