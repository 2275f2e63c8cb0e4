"""Routes whose ids may contain a slash: `/v1/items/shoes%2F42` is the item `shoes/42`.

Servers decode the path before they route by it, but `raw_path` still has the encoded form.
"""

import re
from collections.abc import Callable, Sequence
from typing import Any
from urllib.parse import unquote

from starlette.routing import Match, Route
from starlette.types import Scope

_SLASH_PLACEHOLDER = "\udc2f"  # placeholder of a slash in an id; cannot occur in decoded text


class EncodedIdRoute(Route):
    """A route that distinguishes an encoded slash in an id from a slash that separates path
    segments.

    Args:
        allow_slashes: ids may also contain plain slashes, as where a proxy has decoded them. Not
            for a path with two adjacent ids.
    """

    def __init__(
        self,
        path: str,
        endpoint: Callable[..., Any],
        *,
        methods: Sequence[str],
        allow_slashes: bool = False,
    ) -> None:
        super().__init__(path, endpoint, methods=methods)
        if allow_slashes:
            self.path_regex = re.compile(self.path_regex.pattern.replace("[^/]+", "(?s:.+)"))

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        """Match a request against this route and extract the ids from its path."""
        raw_path: bytes = scope.get("raw_path") or b""
        if b"%2" not in raw_path:
            return super().matches(scope)
        encoded_parts = raw_path.partition(b"?")[0].decode("latin-1").split("/")
        match, child_scope = super().matches(
            {
                **scope,
                "path": "/".join(
                    unquote(encoded_part).replace("/", _SLASH_PLACEHOLDER)
                    for encoded_part in encoded_parts
                ),
            }
        )
        path_ids = {
            name: value.replace(_SLASH_PLACEHOLDER, "/")
            for name, value in child_scope.get("path_params", {}).items()
        }
        return match, {**child_scope, "path_params": path_ids} if child_scope else child_scope
