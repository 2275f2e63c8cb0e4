"""The search finds an id in whatever form a program wrote it down, in names of files too; and says
nothing of it in the receipt.
"""

import bz2
import gzip
import json
import lzma
import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote, quote_plus

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests.support.people import CLOCK, find_ids
from tests.support.privacy.events import make_click, make_project_with_events

from tailorbird.privacy import People, erase
from tailorbird.privacy.search import Needles, search

ID = "Zoë Ångström/7"
PEOPLE = People(frozenset(["user-4711"]))
FORMS: dict[str, Callable[[str], str]] = {
    "as it is": str,
    "JSON": json.dumps,
    "JSON with slashes": lambda text: json.dumps(text).replace("/", "\\/"),
    "percent": lambda text: quote(text, safe=""),
    "percent, lower": lambda text: re.sub(
        "%..", lambda found: found[0].lower(), quote(text, safe="")
    ),
    "path": quote,
    "query": quote_plus,
}


@pytest.mark.parametrize("form", FORMS)
def test_each_form_is_found_and_others_are_not(form: str, tmp_path: Path) -> None:
    needles = Needles(People(frozenset([ID])))
    (tmp_path / "a").write_text(f"before {FORMS[form](ID)} behind")
    (tmp_path / "b").write_text(f"before {FORMS[form](ID + '5')} behind, Zoe Angstrom/7")
    assert [Path(one.path).name for one in search([tmp_path], needles).matches] == ["a"]


def test_names_and_what_is_packed_are_searched(tmp_path: Path) -> None:
    (tmp_path / "of user-4711").mkdir()
    (tmp_path / "user-4711.jsonl").write_text("nothing")
    (tmp_path / "a.gz").write_bytes(gzip.compress(b"of user-4711"))
    with zipfile.ZipFile(tmp_path / "b.zip", "w") as archive:
        archive.writestr("user-4711.txt", "nothing")
    (tmp_path / "c.bz2").write_bytes(bz2.compress(b"of user-4711"))
    (tmp_path / "d.xz").write_bytes(lzma.compress(b"of user-4711"))
    nested = [{"who": [{"params": [("id", {"text": "user-4711"})]}]}] * 9 + [
        {"who": [{"params": [("id", {"text": "other"})]}]}
    ]
    kind = pa.struct(
        [
            (
                "who",
                pa.list_(
                    pa.struct(
                        [("params", pa.map_(pa.string(), pa.struct([("text", pa.string())])))]
                    )
                ),
            )
        ]
    )
    pq.write_table(
        pa.table({"event": pa.array(nested, kind)}),
        tmp_path / "e.parquet",
        compression="zstd",
        write_statistics=False,
    )
    found = search([tmp_path], Needles(PEOPLE)).matches
    names = ["a.gz", "b.zip", "c.bz2", "d.xz", "e.parquet", "of user-4711", "user-4711.jsonl"]
    assert [Path(one.path).name for one in found] == names
    assert not [one for one in found if "4711" in one.redacted + one.where]


def test_what_nobody_can_unpack_is_told(tmp_path: Path) -> None:
    packed = bytearray(
        gzip.compress(b"".join(b"a line of user-%d\n" % number for number in range(20_000)))
    )
    for place in range(100, len(packed) - 10, 7):
        packed[place] ^= 0x55
    (tmp_path / "flipped.gz").write_bytes(packed)
    with zipfile.ZipFile(tmp_path / "locked.zip", "w") as archive:
        archive.writestr("a.txt", "something")
    data = bytearray((tmp_path / "locked.zip").read_bytes())
    for magic, flags in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        data[data.index(magic) + flags] |= 1  # as if it were encrypted
    (tmp_path / "locked.zip").write_bytes(data)
    found = {Path(one.path).name: one.where for one in search([tmp_path], Needles(PEOPLE)).matches}
    assert found == dict.fromkeys(
        ("flipped.gz", "locked.zip"), "packed, and damaged or encrypted: cannot be searched"
    )


def test_the_receipt_names_no_file_that_names_somebody(tmp_path: Path) -> None:
    project = make_project_with_events(
        tmp_path, [make_click("e1", "user-4711"), make_click("e2", "user-4712")]
    )
    export = project.root / "told" / "of-4711.jsonl"
    export.parent.mkdir()
    export.write_text("{}")
    export.with_name("user-4712.jsonl").write_text("somebody else")
    done = erase(project, ["user-4711"], CLOCK)
    export.rename(export.with_name("user-4711.jsonl"))
    assert done.left == []
    assert [Path(one.path).name for one in find_ids(project, ["user-4711"]).matches] == [
        "user-4711.jsonl"
    ]
    done = erase(project, ["user-4711"], CLOCK)
    assert [Path(path).name for path in done.left] == ["user-4711.jsonl"]
    receipt = json.loads(Path(done.path).read_text())
    assert receipt["left"] == ["told/(a name that says who)"]
    assert "4711" not in json.dumps(receipt)
