"""Routes whose ids may have a slash: `/v1/items/shoes%2F42` is the item `shoes/42`, not a path of
two parts.

Servers decode the path before it is routed by; what was sent is still in `raw_path`.
"""

import re
from collections.abc import Callable, Sequence
from typing import Any
from urllib.parse import unquote

from starlette.routing import Match, Route
from starlette.types import Scope

_SLASH = "\udc2f"  # stands for a slash of an id; nothing that is decoded holds it


class EncodedIdRoute(Route):
    """A route that takes no encoded slash for one that divides.

    Args:
        whole: ids may have plain slashes too, as where a proxy has decoded them; not for a path
            with two ids in a row.
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
            self.path_regex = re.compile(self.path_regex.pattern.replace("[^/]+", ".+"))

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        """Whether a request is for this route, with the ids of its path."""
        raw: bytes = scope.get("raw_path") or b""
        if b"%2" not in raw:
            return super().matches(scope)
        parts = raw.partition(b"?")[0].decode("latin-1").split("/")
        match, child_scope = super().matches(
            {**scope, "path": "/".join(unquote(part).replace("/", _SLASH) for part in parts)}
        )
        ids = {
            name: value.replace(_SLASH, "/") for name, value in child_scope.get("path_params", {}).items()
        }
        return match, {**child_scope, "path_params": ids} if child_scope else child_scope
