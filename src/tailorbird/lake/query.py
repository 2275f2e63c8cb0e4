"""Read-only SQL over the current tables, by the DataFusion engine in deltalake.

One statement that begins with SELECT, WITH, SHOW, DESCRIBE or EXPLAIN. The text is checked before
it reaches the engine, so that a refusal has a clear message. String literals, quoted names and
comments are not checked.
"""

import re
from collections.abc import Callable, Mapping

import pyarrow as pa
from deltalake import DeltaTable, QueryBuilder

from tailorbird.errors import TailorbirdError, UsageError

_READ_STATEMENTS = ("SELECT", "WITH", "SHOW", "DESCRIBE", "EXPLAIN")
_WRITE_KEYWORDS = frozenset(
    (
        "INSERT",
        "UPDATE",
        "DELETE",
        "MERGE",
        "CREATE",
        "DROP",
        "ALTER",
        "COPY",
        "TRUNCATE",
        "INTO",
        "VACUUM",
        "OPTIMIZE",
    )
)
_TOKEN = re.compile(
    r"""(?P<skip>\s+|--[^\n]*|/\*.*?\*/)"""
    r"""|(?P<quoted>'(?:[^']|'')*'|"(?:[^"]|"")*"|`[^`]*`)"""
    r"""|(?P<word>[A-Za-z_][A-Za-z_0-9]*)|(?P<other>.)""",
    re.DOTALL,
)
_ENGINE_SETTINGS = {
    "datafusion.catalog.information_schema": "true",
    # This optimisation skips files by the maximum of a column even if the query has another
    # aggregate of it, such as `max(CASE …)`, which then misses rows.
    "datafusion.optimizer.enable_aggregate_dynamic_filter_pushdown": "false",
}
_EXAMPLE = "SELECT type, count(*) FROM events GROUP BY type"


def check_query(query: str) -> str:
    """Return the query without a closing semicolon. Raises UsageError unless it is one statement
    that only reads.
    """
    tokens = [
        (match.lastgroup, match[0]) for match in _TOKEN.finditer(query) if match.lastgroup != "skip"
    ]
    while tokens and tokens[-1][1] == ";":
        tokens.pop()
    if not tokens:
        raise UsageError("the query is empty", fix=f'try "{_EXAMPLE}"')
    if any(token_kind == "other" and text == ";" for token_kind, text in tokens):
        raise UsageError("expected one statement, got several", fix="run them one by one")
    first_word = next((text.upper() for token_kind, text in tokens if text != "("), "")
    if first_word not in _READ_STATEMENTS:
        raise UsageError(
            f"the lake can only be read here: expected one of {', '.join(_READ_STATEMENTS)}, got "
            f"{first_word[:40]}",
            fix=f'try "{_EXAMPLE}"',
        )
    for token_kind, text in tokens:
        if token_kind == "word" and text.upper() in _WRITE_KEYWORDS:
            raise UsageError(
                f"the lake can only be read here, and the query says {text.upper()}",
                fix=f'if that is a column, quote it: "{text}"',
            )
    return query.strip().rstrip(";")


def run_query(
    query: str,
    tables: Mapping[str, DeltaTable],
    find_corrupt_file_error: Callable[[str], TailorbirdError | None],
) -> pa.Table:
    """Run a query over these tables.

    Args:
        find_corrupt_file_error: return the error about the corrupt file behind a message of the
            engine, or None.

    Raises:
        UsageError: the query cannot be run.
        TailorbirdError: a file is corrupt.
    """
    checked_query = check_query(query)
    if checked_query.upper().split() == ["SHOW", "TABLES"]:  # ours only, not the engine's own
        return pa.table({"table_name": pa.array(sorted(tables), pa.string())})
    engine = QueryBuilder(_ENGINE_SETTINGS)
    for name, table in tables.items():
        engine = engine.register(name, table)
    try:
        result_stream = engine.execute(checked_query)
    except Exception as error:  # deltalake raises its own errors, ValueError and OSError alike
        raise _query_error(error) from error
    try:
        return _with_arrow_types(pa.table(result_stream.read_all()))
    except Exception as error:
        raise (find_corrupt_file_error(str(error)) or _query_error(error)) from error


def _query_error(error: Exception) -> UsageError:
    return UsageError(
        f"the query cannot be run: {_first_line(error)}",
        fix="SHOW TABLES lists the tables, DESCRIBE events its columns",
    )


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__


def _with_arrow_types(table: pa.Table) -> pa.Table:
    """Cast the engine's string and binary views to the types that the package uses."""
    fields = [field.with_type(_arrow_type(field.type)) for field in table.schema]
    return table.cast(pa.schema(fields)) if fields != list(table.schema) else table


def _arrow_type(kind: pa.DataType) -> pa.DataType:
    if pa.types.is_string_view(kind) or pa.types.is_large_string(kind):
        return pa.string()
    if pa.types.is_binary_view(kind) or pa.types.is_large_binary(kind):
        return pa.binary()
    return kind
