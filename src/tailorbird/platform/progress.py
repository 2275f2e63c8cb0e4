"""Progress callbacks of long calls."""

from collections.abc import Callable

Progress = Callable[[str, int, int | None], None]  # stage, done, total or None


def no_progress(stage: str, done: int, total: int | None) -> None:
    """Discard the progress."""
