"""The clock of a project whose log ended long ago: it continues from there until the site is live.

Users, counts and trends of an old log mean nothing as of today, since every window is empty. So
`up` writes the lag of the log into a file, and every role and command subtracts it from the
machine's time. The first event with today's time, or `up --live`, ends it.
"""

import json
from pathlib import Path

from tailorbird.atomic_write import FileStamp, atomic_write, file_stamp
from tailorbird.errors import DamageError
from tailorbird.events.clock import Clock, SystemClock

CLOCK_FILE = "clock.json"


class LogClock:
    """The machine's clock minus the lag that a file states.

    Without the file, the machine's clock.

    Readers of the file switch to the machine's time on the first call after a change.

    Args:
        folder: the project's data folder.
        machine_clock: the clock that is set back.

    Raises:
        DamageError: from `now`: the file holds something else.
    """

    def __init__(self, folder: Path, machine_clock: Clock | None = None) -> None:
        self._file = folder / CLOCK_FILE
        self._machine_clock = machine_clock or SystemClock()
        self._stamp: FileStamp | None = None
        self._lag_us = 0

    def now(self) -> int:
        return self._machine_clock.now() - self.lag_us

    def machine_now(self) -> int:
        """Return the machine's own time."""
        return self._machine_clock.now()

    @property
    def lag_us(self) -> int:
        """The lag behind the machine's clock in microseconds; 0 where the project is live."""
        current_stamp = file_stamp(self._file)
        if current_stamp != self._stamp:
            self._lag_us = 0 if current_stamp is None else self._read_lag()
            self._stamp = current_stamp
        return self._lag_us

    @property
    def was_live(self) -> bool:
        """True if the project went live once, after which an old log is only a pause."""
        return self._file.exists() and not self._read_lag()

    def set_lag(self, lag_us: int) -> None:
        """Set the lag of the log in microseconds."""
        atomic_write(self._file, json.dumps({"behind_us": lag_us}).encode())

    def go_live(self) -> None:
        """Use the machine's time from now on."""
        atomic_write(self._file, json.dumps({"behind_us": 0}).encode())

    def _read_lag(self) -> int:
        try:
            return max(0, int(json.loads(self._file.read_bytes())["behind_us"]))
        except FileNotFoundError:
            return 0
        except (ValueError, TypeError, KeyError) as error:
            fix = "delete it: up writes it anew where the log ended long ago"
            raise DamageError(
                f"is not what up wrote: {error}", where=str(self._file), fix=fix
            ) from None
