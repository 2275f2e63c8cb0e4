"""Packed state records: whatever a state holds comes back to the bit; what is cut, damaged or
foreign is refused.
"""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tailorbird.errors import DamageError, TailorbirdError
from tailorbird.events import SimulatedClock
from tailorbird.events.keys import hash64
from tailorbird.features import FeatureSet, ReadRequest, count, entity, sequence, time_since
from tailorbird.features.layout.layout import EntityLayout
from tailorbird.features.online.read import Reader
from tailorbird.features.online.worker import FeatureWorker
from tailorbird.features.state.packing import Packing
from tailorbird.features.state.state import open_state

user = entity("user")
FILLED = FeatureSet.from_declarations(
    [
        count("n", user, "click", window="1h"),
        sequence("recent", user, ["click", "view", "cart"], length=5),
        time_since("since", user, "view"),
    ]
).layout.entities[0]
BARE = FeatureSet.from_declarations(
    [count("n", user, "click", window="1h", hop="1m")]
).layout.entities[0]
lane = st.one_of(st.just(0), st.just(0), st.integers(0, 300), st.integers(-(2**63), 2**63 - 1))


@st.composite
def states(draw: st.DrawFn, layout: EntityLayout) -> np.ndarray:
    """States as accumulators leave them: any lanes; of a sequence, times up to the newest and the
    types it declares.
    """
    lanes = np.array(
        draw(
            st.lists(
                st.lists(lane, min_size=layout.state_lanes, max_size=layout.state_lanes), max_size=5
            )
        ),
        np.int64,
    )
    lanes = lanes.reshape(-1, layout.state_lanes)
    for row in lanes:
        row[0] = draw(st.integers(0, 2**60))
        for one in layout.sequences:
            view = row[one.lane : one.lane + 5 * one.length].reshape(5, one.length)
            types = np.array([hash64(name) for name in one.source.types], np.uint64).view(np.int64)
            view[0] = sorted(
                min(int(row[0]), draw(st.integers(0, 2**60))) for _ in range(one.length)
            )
            view[3] = types[
                draw(
                    st.lists(
                        st.integers(0, len(types) - 1), min_size=one.length, max_size=one.length
                    )
                )
            ]
            view[4] = draw(
                st.lists(st.sampled_from([0, 5, -7]), min_size=one.length, max_size=one.length)
            )
            view[:, view[0] == 0] = 0
    return lanes


def unpacked(packing: Packing, records: list[bytes]) -> np.ndarray:
    sizes = np.array([len(record) for record in records], np.int64)
    return packing.unpack(b"".join(records), sizes).states(packing.width)


@pytest.mark.slow
@pytest.mark.parametrize("layout", [FILLED, BARE], ids=["sequence", "windows"])
@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_packed_states_round_trip(layout, data):
    drawn, packing = data.draw(states(layout)), Packing(layout)
    before = drawn.copy()
    records = packing.pack(drawn)
    np.testing.assert_array_equal(drawn, before)
    np.testing.assert_array_equal(unpacked(packing, records), drawn)
    gaps = [piece for record in records for piece in (b"", record)]  # keys that are not there
    np.testing.assert_array_equal(unpacked(packing, gaps)[1::2], drawn)
    assert not unpacked(packing, gaps)[::2].any()
    for row, one in zip(drawn, records, strict=True):  # a record alone goes a way of its own
        np.testing.assert_array_equal(unpacked(packing, [one])[0], row)


@pytest.mark.slow
@pytest.mark.parametrize("layout", [FILLED, BARE], ids=["sequence", "windows"])
@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_a_record_that_is_cut_damaged_or_foreign_is_refused(layout, data):
    drawn = data.draw(states(layout).filter(len))
    packing = Packing(layout)
    records = packing.pack(drawn)
    victim = data.draw(st.integers(0, len(records) - 1))
    record = records[victim]
    how = data.draw(st.sampled_from(["cut", "longer", "bit", "other"]))
    if how == "cut":
        records[victim] = record[: data.draw(st.integers(1, len(record) - 1))]
    elif how == "longer":
        records[victim] = record + data.draw(st.binary(min_size=1, max_size=9))
    elif how == "bit":
        place = data.draw(st.integers(0, 8 * len(record) - 1))
        damaged = bytearray(record)
        damaged[place // 8] ^= 1 << place % 8
        records[victim] = bytes(damaged)
    else:
        records[victim] = data.draw(st.binary(min_size=1, max_size=60))
    for some in (records, [records[victim]]):
        with pytest.raises(
            DamageError, match=r"state records of user are (cut short or damaged|of another format)"
        ):
            unpacked(packing, some)


def test_a_record_of_another_entity_or_of_the_first_format_is_refused():
    state = np.zeros((1, FILLED.state_lanes), np.int64)
    state[0, :3] = 7, 1, 2
    for foreign in (Packing(BARE).pack(np.full((1, BARE.state_lanes), 3)), [state.tobytes()]):
        with pytest.raises(DamageError):
            unpacked(Packing(FILLED), foreign)


def test_small_numbers_and_empty_lanes_take_little():
    state = np.zeros((1, BARE.state_lanes), np.int64)
    assert len(Packing(BARE).pack(state)[0]) < 12
    state[0, 1:5] = 3
    assert len(Packing(BARE).pack(state)[0]) < 24
    assert BARE.state_bytes > 480


@pytest.mark.parametrize("kind", [b"s", b"r"])
def test_a_worker_stops_and_a_reader_refuses_at_a_record_of_other_lanes(kit, tmp_path, kind):
    features, log = kit.every_kind(), kit.Log(tmp_path)
    click = [kit.event("click", kit.T0, item_id="i1", user_id="u1", event_id="e1")]
    log.append([kit.routed(click)])
    with FeatureWorker(
        log.path, tmp_path / "state", features, clock=SimulatedClock(kit.T0)
    ) as worker:
        worker.step()
        store = open_state(tmp_path / "state", features)

        def cut(transaction):
            transaction.put_many([(key, value[:-3]) for key, value in list(transaction.scan(kind))])

        store.write(cut)
        store.close()
        if kind == b"s":
            log.append([kit.routed(click)])
            with pytest.raises(TailorbirdError, match="state records of"):
                worker.step()
        reader = Reader(tmp_path / "state", features)
        with pytest.raises(DamageError, match=r"records? of"):
            reader.read(ReadRequest(person="u1", now=kit.T0 + 1), ["i1"])
        reader.close()
    log.close()
