"""`tailorbird features verify`: whether servers and state say what the lake says, of features and
of lists of candidates.
"""

import shlex
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from tailorbird.cli.features_verify_lists import compare_logged_lists, plain_lists, print_lists
from tailorbird.cli.limits import size_of
from tailorbird.cli.output import (
    Json,
    Report,
    console,
    print_json,
    print_table,
    progress_bars,
    this_command,
)
from tailorbird.errors import NotReadyError, TailorbirdError

if TYPE_CHECKING:
    import pyarrow as pa

    from tailorbird.config import Project
    from tailorbird.features import FeatureSet
    from tailorbird.features.recompute import Difference, ParityReport
    from tailorbird.features.sampled import SampledRead
    from tailorbird.lake import Lake

_PART = 250  # people that are read and compared at a time
_WAIT_S = 15.0  # for the lake to have what the state already has
_EXPLAINED = 5


def verify(
    *, answers: int = 2_000, samples: int = 1_000, memory: str = "2GB", json: Json = False
) -> None:
    """Recompute features and lists of candidates from the lake and compare them to the bit.

    Each logged answer is recomputed at its own (t, p), and each list that it read at the position
    of its tables. Beside them a sample of the state now: people and items out of the lake's events,
    read as a request would. What differs because a flood made the worker drop entities
    (entities_max) is counted apart. Ends with status 1 if any other value or list differs, and says
    how to look into the first of them.

    Example:  tailorbird -C shop features verify

    Example:  tailorbird -C shop features verify --answers 0 --samples 20000

    Parameters
    ----------
    answers:
        how many logged answers, spread evenly over all of this schema
    samples:
        how many people of the lake, with two items each
    memory:
        how much the events that they depend on may take; where these are more, they are sorted in a
            folder below data/run first
    """
    from tailorbird.config import open_project
    from tailorbird.lake import Lake

    memory_bytes = size_of(memory)
    project = open_project(applied=True)
    lake = Lake(project.paths.lake)
    with progress_bars(quiet=json) as progress:
        reports = _logged(project, lake, answers, memory_bytes, progress)
        lists = compare_logged_lists(project, lake, answers, progress)
        sampled, why = _sampled(project, lake, samples, memory_bytes, progress)
    logged = _together(reports)
    if not logged.answers and not sampled.answers:
        raise NotReadyError(
            "nothing could be compared: no answer was logged, and "
            f"{why or 'no sample was asked for'}",
            where=str(lake.path),
            fix="tailorbird up, then ask it for some",
        )
    unequal = {
        name: count
        for name, count in _together({"": logged, " ": sampled}).by_feature.items()
        if count
    }
    if json:
        print_json(_plain(reports, logged, sampled, unequal) | {"lists": plain_lists(lists)})
    else:
        _print(reports, logged, sampled, unequal, why)
        print_lists(lists)
    raise SystemExit(1 if unequal or lists.unequal else 0)


def _together(reports: "dict[str, ParityReport]") -> "ParityReport":
    """The sums over all schemas."""
    from tailorbird.features.recompute import ParityReport

    whole = ParityReport()
    for report in reports.values():
        whole.answers += report.answers
        whole.compared += report.compared
        whole.pending += report.pending
        whole.skipped += report.skipped
        whole.exempt += report.exempt
        whole.dropped += report.dropped
        whole.examples += report.examples
        for name, count in report.by_feature.items():
            whole.by_feature.setdefault(name, 0)
            whole.add_unequal(name, count)
    return whole


def _logged(
    project: "Project", lake: "Lake", answers: int, memory_bytes: int, progress: Report
) -> "dict[str, ParityReport]":
    """What came of logged answers, by the schema that they were given with; those whose
    declarations are kept.
    """
    import pyarrow.compute as pc

    from tailorbird.config.schemas import find_schema

    places, found = lake.table("answers", ("producer", "offset", "schema_hash")), {}
    for schema in sorted(pc.unique(places["schema_hash"]).to_pylist()) if answers > 0 else []:
        try:
            features = find_schema(project, schema)
        except TailorbirdError as error:
            console(stderr=True).print(
                f"answers of schema {schema} are not compared: {error.message}"
            )
            continue
        own = places.filter(pc.equal(places["schema_hash"], schema))
        every = max(1, -(-places.num_rows // answers))
        chosen = own.take(list(range(0, own.num_rows, every)))
        found[schema] = _of_schema(project, features, lake, chosen, memory_bytes, progress)
    return found


def _dropped(project: "Project", features: "FeatureSet") -> dict[str, int]:
    """The kinds of entities of which the schema's worker dropped some, and up to when these were
    heard of.
    """
    from tailorbird.features.figures import read_schema_figures

    told = read_schema_figures(project.paths.state, features.schema_hash, project.workers)
    return {} if told is None else told.dropped


def _of_schema(
    project: "Project",
    features: "FeatureSet",
    lake: "Lake",
    chosen: "pa.Table",
    memory_bytes: int,
    progress: Report,
) -> "ParityReport":
    import pyarrow.dataset as ds

    from tailorbird.features.bounded import KindExemptions, backfill_on_disk, read_required_events
    from tailorbird.features.recompute import (
        Exemptions,
        comparable_answers,
        compare_answers,
        empty_report,
        parity,
        requests_of,
    )

    report, known, dropped = empty_report(features), _newest(lake), _dropped(project, features)
    where = ds.field("offset").isin(chosen["offset"]) & ds.field("producer").isin(
        chosen["producer"]
    )
    rows = lake.table("answers", where=where & (ds.field("schema_hash") == features.schema_hash))
    sample = comparable_answers(features, known, rows, report)
    if not sample.num_rows:
        return report
    tell = partial(progress, "logged answers")
    requests = requests_of(sample)
    events = read_required_events(lake, features, requests, bytes_max=memory_bytes)
    if events is not None:
        found = parity(features, events, sample, complete_to=known, dropped=dropped, progress=tell)
        found.skipped, found.exempt, found.pending = report.skipped, report.exempt, report.pending
        return found
    with _folder(project) as folder:
        for part in backfill_on_disk(lake, features, requests, folder, memory_bytes):
            some = sample.slice(part.start, part.stop - part.start).combine_chunks()
            compare_answers(
                features,
                some,
                part.rows,
                report,
                Exemptions(KindExemptions(features), requests_of(some), dropped),
            )
            tell(part.stop, sample.num_rows)
    return report


@contextmanager
def _folder(project: "Project") -> Iterator[Path]:
    """A folder for what memory does not hold, on the disk of the data rather than where temporary
    files are, which is often memory.
    """
    project.paths.run.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="verify-", dir=project.paths.run) as folder:
        yield Path(folder)


def _sampled(
    project: "Project", lake: "Lake", samples: int, memory_bytes: int, progress: Report
) -> tuple["ParityReport", str]:
    """What came of the state's present values of some people and items; and why there are none."""
    from tailorbird.events import SystemClock
    from tailorbird.features.read import Reader
    from tailorbird.features.recompute import empty_report
    from tailorbird.features.sampled import draw_sample, read_sample

    features, report = project.features, empty_report(project.features)
    if samples <= 0:
        return report, ""
    drawn = draw_sample(lake, samples, now=SystemClock().now())
    if not drawn.requests:
        return report, "the lake has no event of a person"
    try:
        reader = Reader(project.paths.state, features, workers=project.workers)
    except NotReadyError as error:
        return report, error.message
    try:
        for start in range(0, len(drawn.requests), _PART):
            part = slice(start, start + _PART)
            try:
                asked = read_sample(reader, drawn.requests[part], drawn.items[part])
            except NotReadyError as error:
                return report, error.message
            _wait_for(lake, max(one.rows.p for one in asked))
            _compare_sample(project, lake, asked, memory_bytes, report)
            progress(
                "people of the lake", min(start + _PART, len(drawn.requests)), len(drawn.requests)
            )
    finally:
        reader.close()
    return report, ""


def _compare_sample(
    project: "Project",
    lake: "Lake",
    asked: "list[SampledRead]",
    memory_bytes: int,
    report: "ParityReport",
) -> None:
    from tailorbird.features.backfill import History
    from tailorbird.features.bounded import KindExemptions, backfill_on_disk, read_required_events
    from tailorbird.features.recompute import Exemptions
    from tailorbird.features.sampled import compare, requests_of

    features, requests = project.features, requests_of(asked)
    dropped = _dropped(project, features)
    events = read_required_events(lake, features, requests, bytes_max=memory_bytes)
    if events is not None:
        history = History(features, events)
        compare(
            features,
            asked,
            history.rows(requests),
            report,
            excused=Exemptions(history, requests, dropped),
        )
        return
    with _folder(project) as folder:
        for part in backfill_on_disk(lake, features, requests, folder, memory_bytes):
            some = asked[part.start : part.stop]
            compare(
                features,
                some,
                part.rows,
                report,
                excused=Exemptions(KindExemptions(features), requests_of(some), dropped),
            )


def _newest(lake: "Lake") -> int:
    """Up to which position the lake is complete."""
    from tailorbird.stream import read_released

    return read_released(lake.path).routed_position() - 1


def _wait_for(lake: "Lake", p: int) -> None:
    """The worker is often a second ahead of the lake."""
    give_up = time.monotonic() + _WAIT_S
    while _newest(lake) < p:
        if time.monotonic() > give_up:
            raise NotReadyError(
                f"the state has events up to {p:,}, the lake up to {_newest(lake):,}",
                where=str(lake.path),
                fix="tailorbird run lake",
            )
        time.sleep(0.1)


def _plain(
    reports: "dict[str, ParityReport]",
    logged: "ParityReport",
    sampled: "ParityReport",
    unequal: dict[str, int],
) -> dict:
    return {
        "schemas": {
            schema: {"answers": one.answers, "compared": one.compared, "unequal": one.unequal}
            for schema, one in reports.items()
        },
        "answers": logged.answers,
        "skipped": logged.skipped,
        "exempt": logged.exempt,
        "pending": logged.pending,
        "samples": sampled.answers,
        "compared": logged.compared + sampled.compared,
        "unequal": logged.unequal + sampled.unequal,
        "dropped": logged.dropped + sampled.dropped,
        "by_feature": unequal,
        "examples": [
            {**vars(one), "explain": explaining(one)}
            for one in (*logged.examples, *sampled.examples)[:_EXPLAINED]
        ],
    }


def _print(
    reports: "dict[str, ParityReport]",
    logged: "ParityReport",
    sampled: "ParityReport",
    unequal: dict[str, int],
    why: str,
) -> None:
    out = console()
    out.print(
        f"{logged.answers:,} answers, {logged.compared:,} values compared, "
        f"{logged.unequal:,} unequal."
    )
    if len(reports) > 1:
        rows = [(schema, one.answers, one.compared, one.unequal) for schema, one in reports.items()]
        numbers = ["answers", "compared", "unequal"]
        print_table("By schema", ["schema", *numbers], rows, right=numbers)
    if logged.exempt:
        out.print(f"{logged.exempt:,} answers are exempt: they may have read erased events.")
    if logged.pending:
        out.print(f"{logged.pending:,} answers wait for the lake.")
    text = (
        f"not compared: {why}"
        if why
        else f"{sampled.compared:,} values compared, {sampled.unequal:,} unequal."
    )
    out.print(f"{sampled.answers:,} people of the lake as the state has them now, {text}")
    if dropped := logged.dropped + sampled.dropped:
        out.print(
            f"{dropped:,} more differ, of entities that may have been dropped: there were "
            "more than entities_max."
        )
    if not unequal:
        return
    print_table(
        "Unequal, by feature", ["feature", "values"], list(unequal.items()), right=["values"]
    )
    for one in (*logged.examples, *sampled.examples)[:_EXPLAINED]:
        out.print(f"\n{one.feature}: read {one.logged}, the lake says {one.recomputed}")
        out.print(f"  {explaining(one)}")


def explaining(one: "Difference") -> str:
    """The command that takes a value apart."""
    from tailorbird.events import to_iso

    anonymous = one.person.startswith("anon:")
    about = f"anonymous:{one.person[5:]}" if anonymous else f"user:{one.person or '-'}"
    item = f" --item {shlex.quote(one.item)}" if one.item else ""
    known = "".join(f" --known {p}" for p in one.positions or (one.p,))
    return (
        f"{this_command()} features show {shlex.quote(about)}{item} --why {one.feature} --at "
        f"{to_iso(one.t)}{known}"
    )
