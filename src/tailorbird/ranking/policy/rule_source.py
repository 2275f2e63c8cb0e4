"""The text of a rule: parsed by Python's grammar, with errors at their line and column."""

import ast
import re

from tailorbird.errors import DeclarationError

CHARACTERS_MAX = 1_000
NUMBER_MAX = 1e300
# Strings and comments, which stay unchanged, or the time in `seen(30d)`.
_SPAN = re.compile(
    r"""('(?:\\.|[^'\\\n])*'|"(?:\\.|[^"\\\n])*"|\#[^\n]*)"""
    r"""|(?<=\bseen\()(\s*)(\d{1,5})([mhdw])(?=\s*\))"""
)
_LINE_END = re.compile(r"\r\n|\r|\n")  # as Python counts lines


class RuleSource:
    """The text of one rule, and where it is declared."""

    def __init__(self, text: str, where: str) -> None:
        self.text = text
        self.where = f"{where}, rule {text[:80]!r}" if where else f"rule {text[:80]!r}"

    def parse(self) -> ast.expr:
        """Return the syntax tree of the rule."""
        if len(self.text) > CHARACTERS_MAX:
            raise DeclarationError(
                f"is longer than {CHARACTERS_MAX} characters",
                where=self.where,
                fix="split it into several rules",
            )
        # `30d` is not valid Python, so it is parsed as the name `d30`, which has the same length
        # and keeps columns. Brackets allow line breaks.
        source = _SPAN.sub(lambda match: match[1] or match[2] + match[4] + match[3], self.text)
        try:
            tree = ast.parse(f"(\n{source}\n)", mode="eval").body
        except SyntaxError as error:
            at = self._position_text(error.lineno or 2, (error.offset or 1) - 1)
            raise DeclarationError(f"{at}: {error.msg}", where=self.where) from error
        except (ValueError, RecursionError, MemoryError) as error:
            raise DeclarationError("cannot be read as an expression", where=self.where) from error
        if (
            tree.lineno == 1
        ):  # our own bracket: there is nothing in it, or a comma, or one that closes too early
            raise DeclarationError(
                "expected one expression, with all its brackets closed", where=self.where
            )
        for node in ast.walk(tree):
            if (
                isinstance(node, ast.Constant)
                and isinstance(node.value, int)
                and abs(node.value) > NUMBER_MAX
            ):
                raise self.error(node, "the number is too large")
        return tree

    def _position_text(self, line: int, column: int) -> str:
        """Return a position in the text, from 1.

        `line` counts the added bracket's line too; `column` counts characters from 0.
        """
        lines = len(_LINE_END.split(self.text))
        if not 2 <= line <= lines + 1:
            return "at its end"
        return f"line {line - 1}, column {column + 1}" if lines > 1 else f"column {column + 1}"

    def error(self, node: ast.expr, message: str, fix: str = "") -> DeclarationError:
        """Return an error at a node, with its line and column."""
        before = self._line(node.lineno).encode()[: node.col_offset]  # Python counts bytes
        return DeclarationError(
            f"{self._position_text(node.lineno, len(before.decode()))}: {message}",
            where=self.where,
            fix=fix,
        )

    def _line(self, line: int) -> str:
        return _LINE_END.split(self.text)[line - 2]

    def text_of(self, node: ast.expr) -> str:
        """Return the source text of a name."""
        start = len(self._line(node.lineno).encode()[: node.col_offset].decode())
        return self._line(node.lineno)[start : start + (node.end_col_offset or 0) - node.col_offset]
