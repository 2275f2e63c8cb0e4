"""Wall time of each training stage."""

import time

from tailorbird.training.settings import Progress


class StageTimer:
    """Forwards progress, and records how long each stage took."""

    def __init__(self, progress: Progress) -> None:
        self._progress, self._last = progress, time.monotonic()
        self.seconds: dict[str, float] = {}

    def report(self, stage: str, done: int, total: int) -> None:
        moment = time.monotonic()
        self.seconds[stage] = round(self.seconds.get(stage, 0.0) + moment - self._last, 3)
        self._last = moment
        self._progress(stage, done, total)
