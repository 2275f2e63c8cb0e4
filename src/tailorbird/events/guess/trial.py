"""A dry run of a proposed mapping against the contract, on rows sampled from the files."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

import msgspec

from tailorbird.events.adapters.mapping.adapter import sample_lines
from tailorbird.events.adapters.mapping.file import Mapping, parse_mapping
from tailorbird.events.contract.contract import check_body
from tailorbird.events.contract.plan import EVENT_TYPES, RoutePlan
from tailorbird.events.contract.verdict import Receipt, Refusal

REFUSED_SHARE_MAX = 0.01  # of the rows that may be refused without a word
_ROWS_SHOWN = 10
_REASONS_MAX = 3
_FIX_BY_CODE = {
    "bad_time": 'say how times are written: ts_format = "%d.%m.%Y %H:%M" or ts_unit = "s" in the '
    "mapping, or --ts-format",
    "missing": "rows without it cannot be used; if another column has it, name that one in the "
    "mapping",
    "wrong_type": "leave the column out of the mapping, or put it under another name",
    "number_out_of_range": "leave the column out of the mapping, or put it under another name",
    "ts_absurd": 'say how times are written: ts_unit = "s", "ms" or "us" in the mapping',
    "ts_in_future": "times of the future are taken for mistakes; say ts_format or ts_zone in the "
    "mapping if they are read wrongly",
    "unknown_type": "declare the type in tailorbird.toml under [events] types, or translate it in "
    "the mapping",
}


@dataclass(frozen=True)
class Reason:
    """A reason for which rows of a sample would be refused."""

    rows: int
    message: str
    example: str
    fix: str


@dataclass(frozen=True)
class Trial:
    """The result of a dry run on sampled rows.

    Attributes:
        rows: how many were tried.
        refused: how many of them the contract refuses.
        reasons: the most common ones, the first first.
        sample_events: the first rows of the first source that passed, as events.
    """

    rows: int
    refused: int
    reasons: list[Reason]
    sample_events: list[bytes]

    @property
    def refused_share(self) -> float:
        """The share of the rows that would be refused."""
        return self.refused / self.rows if self.rows else 0.0

    @property
    def warning(self) -> str:
        """The warning to show, "" where hardly any row is refused."""
        if self.refused_share <= REFUSED_SHARE_MAX:
            return ""
        lines = [f"Of {self.rows:,} rows tried, {self.refused_share:.0%} would be refused:"]
        lines += [
            f"  {reason.rows:,} rows: {reason.message}, such as {reason.example}\n    fix: "
            f"{reason.fix}"
            for reason in self.reasons
        ]
        return "\n".join(lines)


def try_mapping(
    mapping: str, files: Sequence[Path], now: int, custom_types: Sequence[str] = ()
) -> Trial:
    """Try a mapping on a sample of each file that it names.

    Args:
        mapping: its text.
        now: in microseconds.
        custom_types: event types beside the built-in ones.

    Raises:
        InputError: a file cannot be read, or not as the mapping says.
    """
    parsed_mapping: Mapping = parse_mapping(mapping, "the proposed mapping")
    plan = _build_plan(custom_types)
    rows = refused = 0
    count_by_reason: Counter[tuple[str, str]] = Counter()
    first_refusal_by_reason: dict[tuple[str, str], Refusal] = {}
    sample_events: list[bytes] = []
    for source in parsed_mapping.source:
        for file in (candidate for candidate in files if fnmatch(candidate.name, source.file)):
            lines = sample_lines(file, source)
            _, refusals = check_body(b"\n".join(lines), Receipt(now, "import", "ndjson"), plan)
            rows = rows + len(lines)
            refused = refused + len(refusals)
            for refusal in refusals:
                count_by_reason[refusal.code, refusal.path] += 1
                first_refusal_by_reason.setdefault((refusal.code, refusal.path), refusal)
            refused_rows = {refusal.row for refusal in refusals}
            if source.kind == "events" or len(parsed_mapping.source) == 1:
                sample_events += [
                    line
                    for row, line in enumerate(lines[: 10 * _ROWS_SHOWN])
                    if row not in refused_rows
                ][: _ROWS_SHOWN - len(sample_events)]
    return Trial(
        rows,
        refused,
        [
            _explain_refusal(first_refusal_by_reason[key], count)
            for key, count in count_by_reason.most_common(_REASONS_MAX)
        ],
        sample_events,
    )


def _build_plan(custom_types: Sequence[str]) -> RoutePlan:
    """Return a plan that knows these event types too."""
    return RoutePlan(event_types=tuple(dict.fromkeys((*EVENT_TYPES, *custom_types))))


def _explain_refusal(refusal: Refusal, rows: int) -> Reason:
    example = refusal.body.decode(errors="replace")
    try:
        record = msgspec.json.decode(refusal.body)
        example = msgspec.json.encode(
            {
                name: value
                for name, value in record.items()
                if name not in ("event_id", "properties")
            }
        ).decode()
    except (msgspec.MsgspecError, AttributeError):
        pass
    fix = _FIX_BY_CODE.get(refusal.code, "change the mapping")
    if refusal.code == "number_out_of_range" and ", got -" in refusal.message:
        fix = (
            "below 0 are often returns: import all the same, and these rows lie in the "
            "quarantine, or take them out of the file"
        )
    if refusal.path in ("$.user_id", "$.anonymous_id"):
        fix = (
            "rows of nobody cannot be used; where an order or a session may stand for a person, "
            'map it: anonymous_id = "…"'
        )
    return Reason(rows, f"{refusal.path}: {refusal.message}", example[:160], fix)
