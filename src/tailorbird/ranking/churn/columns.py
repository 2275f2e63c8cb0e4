"""Selection of the feature columns that a churn model reads.

These are the columns about a user alone, including those that churn.py names, and the durations
among them.
"""

from collections.abc import Sequence

from tailorbird.errors import DeclarationError, NotReadyError, suggest_name
from tailorbird.features import FeatureSet
from tailorbird.features.layout.layout import Step
from tailorbird.ranking.churn.declaration import Churn
from tailorbird.registry import ColumnNames

# Operations that need an item, a request or a session.
_REQUEST_OPERATIONS = frozenset(
    ("context", "match", "seen", "session", "length", "depth", "duration", "refinements")
)
_DURATION_OPERATIONS = frozenset(
    ("since", "first", "age", "duration", "gap", "gap_min", "gap_max", "gap_deviation", "gap_last")
)
_NAME_SIMILARITY_MIN = (
    0.85  # a name so much like a known one is a slip of the pen; any other is to be declared
)


def user_only_columns(features: FeatureSet, leave_out: Sequence[str] = ()) -> ColumnNames:
    """Return the columns that are about a user alone.

    Raises:
        NotReadyError: there is none.
    """
    steps = {step.name: step for step in features.layout.steps}
    is_user_column: dict[str, bool] = {}

    def is_about_user(step: Step) -> bool:
        if step.name not in is_user_column:
            if step.expression is not None:
                is_user_column[step.name] = all(
                    is_about_user(steps[name]) for name, _ in step.expression.names
                )
            else:
                # A record lane is one of the numbers that an entity's record holds.
                fields = [
                    features.layout.entities[record_lane.entity].entity.fields
                    for record_lane in step.record_lanes
                ]
                is_user_column[step.name] = (
                    step.operation not in _REQUEST_OPERATIONS
                    and bool(fields)
                    and all(map(_is_user_only, fields))
                )
        return is_user_column[step.name]

    numeric = tuple(
        name for name in features.numeric if name not in leave_out and is_about_user(steps[name])
    )
    categorical = tuple(
        name
        for name in features.categorical
        if name not in leave_out and is_about_user(steps[name])
    )
    if not numeric:
        fix = (
            'declare some in features.py, such as time_since("since_purchase", entity("user"), '
            '"purchase")'
        )
        raise NotReadyError("features.py has no numeric column about the user alone", fix=fix)
    return ColumnNames(numeric, categorical)


def duration_columns(features: FeatureSet | None) -> frozenset[str]:
    """Return the columns that hold a duration; empty without declarations.

    Derived columns are not included, whatever they contain.
    """
    steps = () if features is None else features.layout.steps
    return frozenset(step.name for step in steps if step.operation in _DURATION_OPERATIONS)


def churn_columns(churn: Churn, features: FeatureSet) -> ColumnNames:
    """Return the columns that a churn model may read.

    Raises:
        NotReadyError: features.py has nothing about a person alone.
        DeclarationError: churn.py names a column that is not there, or left out, or about more than
            the person; says what to write.
    """
    columns = user_only_columns(features, churn.leave_out)
    for role in ("recency", "frequency", "age", "amount"):
        name = getattr(churn, role)
        if not name or name in columns.numeric:
            continue
        if name in churn.leave_out:
            problem = f"{role}={name!r} is among what it leaves out"
            fix = "name another column, or take it out of leave_out"
        elif name in {column.name for column in features.columns}:
            problem = f"{role}={name!r} is no numeric column about the user alone"
            line = _declaration_line(churn, role, f"user_{name}")
            fix = f"name another, or add to features.py: {line}"
        else:
            problem = f"{role}={name!r} is no column of features.py"
            fix = suggest_name(
                name,
                columns.numeric,
                f"add to features.py: {_declaration_line(churn, role, name)}",
                cutoff=_NAME_SIMILARITY_MIN,
            )
        raise DeclarationError(f"churn {churn.name}: {problem}", where="churn.py", fix=fix)
    return columns


def _declaration_line(churn: Churn, role: str, name: str) -> str:
    """Return a line of features.py that declares the column of a role."""
    types = (
        f'"{churn.types[0]}"'
        if len(churn.types) == 1
        else "[" + ", ".join(f'"{type_}"' for type_ in churn.types) + "]"
    )
    function = {
        "recency": "time_since",
        "frequency": "count",
        "age": "time_since_first",
        "amount": "total",
    }[role]
    amount_argument = ', of="price"' if role == "amount" else ""
    return f'{name} = {function}("{name}", entity("user"), {types}{amount_argument})'


def _is_user_only(fields: tuple[str, ...]) -> bool:
    return bool(fields) and all(field == "user" or field.startswith("user.") for field in fields)
