"""`tailorbird features verify`: check served features and candidate lists against the lake."""

from tailorbird.cli.features.parity_output import print_reports, reports_to_dict
from tailorbird.cli.features.verify_lists import lists_to_dict, print_lists
from tailorbird.cli.limits import parse_size
from tailorbird.cli.output import Json, console, print_json, print_note, progress_bars


def verify(
    *, answers: int = 2_000, samples: int = 1_000, memory: str = "2GB", json: Json = False
) -> None:
    """Recompute features and candidate lists from the lake and compare them bit by bit.

    Each logged answer is recomputed at its own time and position, and each list that it read at the
    position of its tables. In addition a sample of the present state is compared: people and items
    from the lake's events, read as a request would. Differences that may come from evicted entities
    (entities_max) are counted separately. The command ends with status 1 if any other value or list
    differs, and prints how to examine the first of them.

    Example:  tailorbird -C shop features verify

    Example:  tailorbird -C shop features verify --answers 0 --samples 20000

    Parameters
    ----------
    answers:
        number of logged answers to recompute, spread evenly over all of this schema
    samples:
        number of people of the lake to compare, with two items each
    memory:
        memory limit of the events that the values depend on; if there are more, they are first
        sorted in a folder below data/run
    """
    import msgspec

    from tailorbird.config import open_project
    from tailorbird.platform.features.parity import verify as verify_parity

    with progress_bars(quiet=json) as progress:
        result = verify_parity(
            open_project(use_applied=True),
            answers=answers,
            samples=samples,
            memory_bytes=parse_size(memory),
            progress=progress,
            notify=print_note,
        )
    logged_report = result.logged_report
    unequal_by_feature = result.unequal_by_feature
    if json:
        summary = reports_to_dict(
            result.report_by_schema, logged_report, result.state_report, unequal_by_feature
        )
        lists = lists_to_dict(result.list_report)
        copy_summary = msgspec.to_builtins(result.copy_report)
        print_json(
            {**summary, "erased": result.erased_responses, "lists": lists, "copy": copy_summary}
        )
    else:
        print_reports(
            result.report_by_schema,
            logged_report,
            result.state_report,
            unequal_by_feature,
            result.sampling_obstacle,
        )
        print_lists(result.list_report)
        if note := result.erasure_note:
            console().print(f"{note[0].upper()}{note[1:]}.")
    raise SystemExit(0 if result.is_sound else 1)
