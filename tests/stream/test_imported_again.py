"""An export that comes again, compressed, made anew or with more in it, says nothing twice; rows
that are equal within a file all count.
"""

import gzip
import json
from collections import Counter
from pathlib import Path

import pytest

from tailorbird import faults
from tailorbird.errors import ConfigError
from tailorbird.events import RoutePlan, SimulatedClock
from tailorbird.events.adapters import AdapterOptions
from tailorbird.events.pseudonyms import Pseudonyms
from tailorbird.router import Router, to_table
from tailorbird.stream import open_reader, routed_path
from tailorbird.stream.importer import import_files

NOW = 1_800_000_000_000_000
YEAR = 365 * 86_400_000_000
HEAD = "USER_ID,ITEM_ID,TIMESTAMP\n"
ROWS = ["1,a,1586735164", "1,b,1586735165", "2,a,1586735166", "2,a,1586735166"]
MAPPING = (
    '[[source]]\nfile = "*"\nkind = "events"\ntype = "click"\nts = "TIMESTAMP"\nts_unit = '
    '"s"\nuser_id = "USER_ID"\nitem_id = "ITEM_ID"\n'
)
FEEDBACK = {
    "FeedbackType": "star",
    "UserId": "u",
    "ItemId": "i",
    "Timestamp": "2025-02-24T00:00:00Z",
}


def run(stream: Path, format_: str, path: Path, now: int = NOW, **options) -> None:
    adapter_options = AdapterOptions(
        root=str(path), mapping=MAPPING if format_ == "mapping" else "", mapping_name="m"
    )
    import_files(
        stream,
        format_,
        path,
        plan=RoutePlan(),
        clock=SimulatedClock(now),
        options=adapter_options,
        **options,
    )


def routed(stream: Path) -> list[dict]:
    with Router(stream, RoutePlan(), clock=SimulatedClock(NOW + 2 * YEAR)) as router:
        while router.step().has_more:
            pass
    with open_reader(routed_path(stream)) as reader:
        return [
            row
            for stored in reader.read(0)
            if stored.block.kind == "events"
            for row in to_table(stored.block).to_pylist()
        ]


def counted(stream: Path) -> Counter:
    return Counter((row["user_id"], row["item_id"]) for row in routed(stream))


@pytest.mark.parametrize("format_", ["personalize", "mapping"])
@pytest.mark.parametrize("run_rows", [2, 1_000])
def test_compressed_grown_and_in_another_order_it_is_known_again(tmp_path, format_, run_rows):
    folder, stream = tmp_path / "files", tmp_path / "stream"
    folder.mkdir()
    stream.mkdir()
    (folder / "it.csv").write_text(HEAD + "\n".join(ROWS))
    (folder / "it2.csv.gz").write_bytes(gzip.compress((HEAD + "\n".join(ROWS)).encode()))
    (folder / "grown.csv").write_text(HEAD + "\n".join([*reversed(ROWS), "3,c,1586735167"]))
    for days, name in enumerate(("it.csv", "it2.csv.gz", "grown.csv")):
        run(stream, format_, folder / name, NOW + days * YEAR // 2, run_rows=run_rows)
    assert counted(stream) == {("1", "a"): 1, ("1", "b"): 1, ("2", "a"): 2, ("3", "c"): 1}


def test_files_of_one_folder_that_overlap_count_once(tmp_path):
    (tmp_path / "files").mkdir()
    for name in ("a", "b"):
        (tmp_path / "files" / f"{name}.csv").write_text(
            HEAD + "\n".join([*ROWS, f"9,{name},1586735164"])
        )
    (tmp_path / "stream").mkdir()
    run(tmp_path / "stream", "personalize", tmp_path / "files", run_rows=3)
    assert counted(tmp_path / "stream") == {
        ("1", "a"): 1,
        ("1", "b"): 1,
        ("2", "a"): 2,
        ("9", "a"): 1,
        ("9", "b"): 1,
    }


def test_ratings_of_movielens_with_one_more(tmp_path):
    (tmp_path / "stream").mkdir()
    for name, more in (("old", ""), ("new", "2,20,3.5,1112486030\n")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "ratings.csv").write_text(
            "userId,movieId,rating,timestamp\n1,10,4.0,1112486027\n" + more
        )
        run(tmp_path / "stream", "movielens", tmp_path / name)
    assert counted(tmp_path / "stream") == {("1", "10"): 1, ("2", "20"): 1}


def test_feedback_of_gorse_is_known_by_what_gorse_knows_it_by(tmp_path):
    (tmp_path / "stream").mkdir()
    other = {**FEEDBACK, "UserId": "v"}
    reordered = dict(
        reversed({**FEEDBACK, "Timestamp": "2025-02-24T01:00:00+01:00", "Comment": "late"}.items())
    )
    for name, rows in (("f", [FEEDBACK, FEEDBACK]), ("g", [reordered, other])):
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
        run(tmp_path / "stream", "gorse", tmp_path / f"{name}.jsonl")
    assert counted(tmp_path / "stream") == {("u", "i"): 1, ("v", "i"): 1}


def test_a_profile_goes_back_to_what_it_was(tmp_path):
    (tmp_path / "stream").mkdir()
    for number, price in enumerate((5, 7, 5)):
        path = tmp_path / f"{number}.csv"
        path.write_text(f"ITEM_ID,PRICE,NOTE\ni,{price},\n" + f"j,{number},\n")
        run(tmp_path / "stream", "personalize", path)
    assert [
        json.loads(row["properties"])["price"]
        for row in routed(tmp_path / "stream")
        if row["item_id"] == "i"
    ] == [5, 7, 5]


def test_with_pseudonyms_too_and_the_id_tells_nobody(tmp_path):
    path = tmp_path / "it.csv"
    path.write_text(HEAD + "\n".join(ROWS))
    counts = []
    for key in ("k" * 40, "l" * 40):
        stream = tmp_path / key
        stream.mkdir()
        run(stream, "personalize", path, pseudonyms=Pseudonyms(key))
        (tmp_path / "it.csv.gz").write_bytes(gzip.compress(path.read_bytes()))
        run(stream, "personalize", tmp_path / "it.csv.gz", pseudonyms=Pseudonyms(key))
        counts.append({row["event_id"] for row in routed(stream)})
        assert len(counts[-1]) == len(ROWS)
    assert counts[0].isdisjoint(counts[1])


@pytest.mark.parametrize("at", range(1, 6))
def test_killed_between_equal_rows_it_goes_on(tmp_path, monkeypatch, at):
    monkeypatch.setattr("tailorbird.stream.importer.BODY_ROWS", 1)
    monkeypatch.setattr("tailorbird.stream.importer.COMMIT_BODIES", 1)
    path, stream = tmp_path / "it.csv", tmp_path / "stream"
    path.write_text(HEAD + "\n".join(["2,a,1586735166"] * 5))
    stream.mkdir()
    with monkeypatch.context() as killed:
        killed.setattr(faults, "fire_if_armed", _dies_at("import.after_commit", at))
        with pytest.raises(KeyboardInterrupt):
            run(stream, "personalize", path)
    run(stream, "personalize", path)
    assert counted(stream) == {("2", "a"): 5}


def _dies_at(site: str, visit: int):
    seen = Counter()

    def at(name: str) -> None:
        seen[name] += 1
        if name == site and seen[name] == visit:
            raise KeyboardInterrupt

    return at


@pytest.mark.parametrize("at", range(1, 9))
def test_a_key_of_pseudonyms_that_is_set_between_two_parts_of_an_import(tmp_path, monkeypatch, at):
    """The rest comes in the order of the part that is done, hidden: no row twice, none lost, and
    nobody's id behind the key's coming.
    """
    monkeypatch.setattr("tailorbird.stream.importer.BODY_ROWS", 1)
    monkeypatch.setattr("tailorbird.stream.importer.COMMIT_BODIES", 1)
    path, stream = tmp_path / "it.csv", tmp_path / "stream"
    path.write_text(
        HEAD
        + "\n".join(
            [f"user-{n},{n},1586735166" for n in range(6)]
            + ["user-7,7,1586735166"] * 2
            + ["user-8,8,never"]
        )
    )
    stream.mkdir()
    with monkeypatch.context() as killed:
        killed.setattr(faults, "fire_if_armed", _dies_at("import.after_commit", at))
        with pytest.raises(KeyboardInterrupt):
            run(stream, "personalize", path)
    key = Pseudonyms("k" * 40)
    for _ in range(2):  # cut short again, it keeps the order that it began with
        with monkeypatch.context() as killed:
            killed.setattr(faults, "fire_if_armed", _dies_at("import.after_commit", 1))
            with pytest.raises(KeyboardInterrupt):
                run(stream, "personalize", path, pseudonyms=key)
    run(stream, "personalize", path, pseudonyms=key)
    rows = routed(stream)
    assert Counter(row["item_id"] for row in rows) == Counter(
        {**{str(n): 1 for n in range(6)}, "7": 2}
    )
    real_ids = [row["user_id"] for row in rows if row["user_id"].startswith("user-")]
    assert len(real_ids) == min(at, len(rows))
    assert {row["user_id"] for row in rows if row["user_id"] not in real_ids} <= {
        key.user_id(f"user-{n}") for n in range(8)
    }


def test_an_import_that_began_with_another_key_of_pseudonyms_is_told(tmp_path, monkeypatch):
    path, stream = tmp_path / "it.csv", tmp_path / "stream"
    path.write_text(HEAD + "\n".join(ROWS))
    stream.mkdir()
    with monkeypatch.context() as killed:
        killed.setattr(faults, "fire_if_armed", _dies_at("import.before_commit", 1))
        with pytest.raises(KeyboardInterrupt):
            run(stream, "personalize", path, pseudonyms=Pseudonyms("k" * 40))
    for other in (Pseudonyms("l" * 40), None):
        with pytest.raises(ConfigError, match="began with another key of pseudonyms"):
            run(stream, "personalize", path, pseudonyms=other)
    run(stream, "personalize", path, pseudonyms=Pseudonyms("k" * 40))
    assert len(routed(stream)) == len(ROWS)
