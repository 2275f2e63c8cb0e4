"""Wall time of each training stage."""

import time

from tailorbird.training.settings import Progress


class StageTimer:
    """Forwards progress, and records how long each stage took."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._last_report = time.monotonic()
        self.stage_seconds: dict[str, float] = {}

    def report(self, stage: str, done: int, total: int) -> None:
        now = time.monotonic()
        self.stage_seconds[stage] = round(
            self.stage_seconds.get(stage, 0.0) + now - self._last_report, 3
        )
        self._last_report = now
        self._progress(stage, done, total)
