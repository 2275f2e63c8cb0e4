"""What a layout is: files with made-up rows, and the roles that its publisher documents.

`development/` has the layouts that the scorers were built with. `held_out/` has those that were
written by somebody who had not seen the scorers. The hash of a name decides where it belongs, so
that nobody chooses.
"""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

Writer = Callable[[Path, np.random.Generator, int], None]

CONSTANT = "="  # prefix of a role that no column has: "=purchase" is the type of every row
NONE = ""  # the data do not have this role


@dataclass(frozen=True)
class Layout:
    """Files of one publisher or shape.

    A role names a column as `FILE:COLUMN`, with the file as `write` creates it. A column of a file
    without a header is `#1`, `#2`, …; a field inside JSON or an array has a dotted path, such as
    `orders.jsonl:lines.sku`. Several right answers are separated by `|`.

    Attributes:
        name: lower case with hyphens.
        documented_by: where the publisher describes the columns.
        write: creates the files in an empty folder, with about the given number of event rows.
        time, person, item, type: the column of each role; `NONE` or `=constant` where there is none.
        event_types: for each value of the type's column, the event type that it means, such as
            `{"pv": "view", "buy": "purchase"}`; for a constant type it may be empty.
        item_profiles: `FILE:COLUMN` of the key of a table of items, where there is one.
        user_profiles: the same for people.
        questions: roles that nobody could know from the file, so that a question is right.
    """

    name: str
    documented_by: str
    write: Writer
    time: str
    person: str
    item: str
    type: str
    event_types: Mapping[str, str] = field(default_factory=dict)
    item_profiles: str = NONE
    user_profiles: str = NONE
    questions: frozenset[str] = frozenset()


def is_for_development(name: str) -> bool:
    """Return whether a layout of this name belongs to `development/`."""
    return hashlib.sha256(name.encode()).digest()[0] % 2 == 0
