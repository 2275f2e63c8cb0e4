"""Each promise of `stream.protocol`, for each implementation of a log."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support.network.brokers import open_new_log

from tailorbird.errors import InputError, LockedError, NotReadyError
from tailorbird.stream import Block, open_reader, open_writer


class Embedded:
    """The embedded log for the suite; another implementation brings its own class."""

    def __init__(self, folder):
        self.path = folder / "raw-collector.db"

    def writer(self, **settings):
        return open_writer(self.path, partition="collector", **settings)

    def reader(self):
        return open_reader(self.path)


class Kafka:
    """A log in a topic of a real broker for the suite."""

    def __init__(self, folder, servers):
        self.address = open_new_log(servers, folder)

    def writer(self, **settings):
        return open_writer(self.address, partition="collector", **settings)

    def reader(self):
        return open_reader(self.address)


@pytest.fixture(params=["embedded", pytest.param("kafka", marks=pytest.mark.slow)])
def make_log(request):
    """Makes a log in a folder, of each kind."""
    if request.param == "embedded":
        return Embedded
    servers = request.getfixturevalue("kafka_servers")
    return lambda folder: Kafka(folder, servers)


@pytest.fixture
def log(make_log, tmp_path):
    return make_log(tmp_path)


@pytest.fixture(params=["embedded", pytest.param("kafka", marks=pytest.mark.slow)])
def pruned_log(request, tmp_path):
    """A log that can be pruned, through a proxy that deletes records."""
    if request.param == "embedded":
        return Embedded(tmp_path)
    return Kafka(tmp_path, request.getfixturevalue("deleting_servers"))


def body(number, rows=1):
    return Block("body", rows, f"payload {number}".encode(), f"receipt {number}".encode())


class Abort(Exception):
    pass


def abort(writer, blocks):
    """Append in a transaction that ends in an exception."""
    try:
        with writer.transaction():
            writer.append(blocks)
            raise Abort
    except Abort:
        return


def offsets(stored):
    return [one.offset for one in stored]


def test_blocks_come_back_as_they_were_appended(log):
    blocks = [
        body(0, 3),
        Block("other", 1, b""),
        Block("body", 5, bytes(range(256)) * 1_000, b"\0"),
    ]
    with log.writer() as writer, log.reader() as reader:
        assert writer.append(blocks[:2]) == 0
        assert writer.append(blocks[2:]) == 4
        assert writer.end() == reader.end() == 9
        stored = reader.read(0)
    assert [one.block for one in stored] == blocks
    assert [(one.offset, one.end) for one in stored] == [(0, 3), (3, 4), (4, 9)]


def test_an_acknowledged_block_is_there_after_a_reopen(log):
    with log.writer() as writer:
        writer.append([body(0, 2)])
    with log.writer() as writer, log.reader() as reader:
        assert writer.append([body(1)]) == 2
        assert [one.block for one in reader.read(0)] == [body(0, 2), body(1)]


def test_a_reader_starts_with_the_block_that_holds_the_position(log):
    with log.writer() as writer, log.reader() as reader:
        writer.append([body(0, 3), body(1, 2), body(2)])
        assert [offsets(reader.read(start)) for start in range(7)] == [[0, 3, 5]] * 3 + [
            [3, 5]
        ] * 2 + [[5], []]


def test_a_read_is_bounded_in_bytes_but_brings_at_least_one_block(log):
    with log.writer() as writer, log.reader() as reader:
        writer.append([Block("body", 1, b"x" * 100) for _ in range(5)])
        assert offsets(reader.read(0, bytes_max=250)) == [0, 1]
        assert offsets(reader.read(2, bytes_max=1)) == [2]


def test_a_reader_is_told_of_changes(log):
    with log.writer() as writer, log.reader() as reader:
        assert reader.has_changed()
        assert not reader.has_changed()
        writer.append([body(0)])
        assert reader.has_changed()
        assert not reader.has_changed()
        reader.read(0)
        assert not reader.has_changed()


def test_what_is_waiting_behind_a_position_is_told(log):
    with log.writer() as writer, log.reader() as reader:
        writer.append([body(0, 3), body(1, 2)])
        writer.append([body(2)])
        backlogs = [reader.backlog_after(position) for position in (0, 3, 4, 5, 6)]
    assert [each.rows for each in backlogs] == [6, 3, 2, 1, 0]
    assert [each.receipts for each in backlogs] == [
        tuple(f"receipt {n}".encode() for n in range(first, 3)) for first in (0, 1, 1, 2, 3)
    ]
    assert [each.blocks for each in backlogs][-2:] == [1, 0]


def test_all_of_a_transaction_is_there_or_nothing(log):
    with log.writer() as writer, log.reader() as reader:
        with writer.transaction():
            assert writer.append([body(0)]) == 0
            assert writer.append([body(1, 2)]) == 1
            assert reader.read(0) == []
        assert offsets(reader.read(0)) == [0, 1]
        abort(writer, [body(2)])
        assert reader.end() == writer.end() == 3
        assert writer.append([body(3)]) == 3
        assert [one.block for one in reader.read(3)] == [body(3)]


def test_a_second_writer_is_refused_and_told_who_the_first_is(log):
    message = r"process \d+ is writing this file; it can have one writer\n  fix: stop process"
    with log.writer(), pytest.raises(LockedError, match=message):
        log.writer()
    log.writer().close()


def test_offsets_are_never_given_twice(pruned_log):
    with pruned_log.writer() as writer:
        writer.append([body(0, 3)])
        writer.append([body(1, 3)])
        assert writer.prune(6) > 0
    with pruned_log.writer() as writer, pruned_log.reader() as reader:
        assert reader.start() in (3, 6), "the last message of a topic says where it ends, and stays"
        assert reader.end() == 6
        assert writer.append([body(2)]) == 6
        assert [one.block for one in reader.read(6)] == [body(2)]


def test_prune_deletes_only_whole_blocks_behind_the_position(pruned_log):
    with pruned_log.writer() as writer, pruned_log.reader() as reader:
        for number in range(3):
            writer.append([body(number, 3)])
        assert writer.prune(5) > 0
        assert reader.start() == 3
        assert offsets(reader.read(3)) == [3, 6]
        assert writer.prune(5) == 0


def test_a_reader_that_comes_too_late_is_told_and_not_given_a_gap(pruned_log):
    with pruned_log.writer() as writer, pruned_log.reader() as reader:
        writer.append([body(0, 3)])
        writer.append([body(1)])
        writer.prune(3)
        with pytest.raises(InputError, match="rows before 3 were pruned, asked for 2"):
            reader.read(2)


def test_a_log_may_begin_anywhere(log):
    with log.writer(first_position=1) as writer, log.reader() as reader:
        assert writer.end() == reader.end() == reader.start() == 1
        assert writer.append([body(0)]) == 1
        assert offsets(reader.read(0)) == offsets(reader.read(1)) == [1]


def test_there_is_nothing_to_read_before_the_writer_came(log):
    with pytest.raises(NotReadyError):
        log.reader()


def test_a_block_takes_at_least_one_position(log):
    with log.writer() as writer:
        with pytest.raises(ValueError, match="at least one position"):
            writer.append([body(0), Block("body", 0, b"")])
        assert writer.end() == 0


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("append"), st.lists(st.integers(1, 4), max_size=3)),
        st.tuples(st.just("prune"), st.integers(0, 40)),
        st.tuples(st.just("abort"), st.lists(st.integers(1, 4), max_size=3)),
        st.tuples(st.just("reopen"), st.none()),
    ),
    max_size=12,
)


def run_steps(log, steps, *, prunes):
    """Do the steps and hold the log against a list."""
    writer, number, model, end, start = log.writer(), 0, [], 0, 0
    for step, argument in steps:
        if step == "append":
            blocks = [body(number := number + 1, rows) for rows in argument]
            assert writer.append(blocks) == end
            for block in blocks:
                model.append((end, block))
                end += block.rows
        elif step == "abort":
            abort(writer, [body(number, rows) for rows in argument])
        elif step == "prune" and prunes:
            pruned = [(offset, block) for offset, block in model if offset + block.rows <= argument]
            assert writer.prune(argument) == len(pruned)
            model = model[len(pruned) :]
            start = pruned[-1][0] + pruned[-1][1].rows if pruned else start
        elif step == "reopen":
            writer.close()
            writer = log.writer()
        assert writer.end() == end
    with log.reader() as reader:
        assert (reader.start(), reader.end()) == (start, end)
        assert [(one.offset, one.block) for one in reader.read(start)] == model
    writer.close()


@settings(max_examples=40, deadline=None)
@given(steps=STEPS)
def test_whatever_the_order_of_steps_the_log_is_a_list_with_its_front_pruned(
    tmp_path_factory, steps
):
    run_steps(Embedded(tmp_path_factory.mktemp("log")), steps, prunes=True)


@settings(max_examples=6, deadline=None)
@given(steps=STEPS)
def test_whatever_the_order_of_steps_a_topic_is_a_list(tmp_path_factory, kafka_servers, steps):
    run_steps(Kafka(tmp_path_factory.mktemp("log"), kafka_servers), steps, prunes=False)
