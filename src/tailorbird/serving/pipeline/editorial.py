"""Editorial lists: named lists of items in `lists.toml`, beside `slots.py`, swapped under running
requests.

    summer = ["i17", "i93"]        # the items of a slot's source `editorial:summer`, in order

A thread checks the file twice a second, and loads a version that was unchanged for two checks,
because most editors empty a file before they write it. If it cannot be read, the previous lists
stay in force and the error is logged. A missing list is empty, and so is one of unknown items:
slots have other sources.
"""

import logging
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from tailorbird.atomic_write import FileStamp, file_stamp
from tailorbird.candidates.query import source_of
from tailorbird.errors import DeclarationError
from tailorbird.events import hash64s
from tailorbird.periodic import PeriodicTask
from tailorbird.ranking import Slot
from tailorbird.serving.pipeline.protocols import KeysByList

LISTS_FILE = "lists.toml"
POLL_S = 0.5
log = logging.getLogger(__name__)


class LiveEditorialLists:
    """The current lists of a project's file. `keys_by_list` may be read from any thread."""

    def __init__(self, path: Path, *, poll_s: float = POLL_S) -> None:
        self._path = path
        self._loaded_stamp: FileStamp | None = None
        self._latest_stamp = file_stamp(path)
        self.keys_by_list: KeysByList = {}
        self.periodic_task = PeriodicTask(
            "lists", self.reload_if_changed, interval_s=poll_s, run_at_start=False
        )
        self.reload_if_changed()

    def reload_if_changed(self) -> bool:
        """Load a changed file that has been stable since the last check, and return whether it was
        loaded.
        """
        previous_stamp = self._latest_stamp
        self._latest_stamp = file_stamp(self._path)
        if self._latest_stamp == self._loaded_stamp or self._latest_stamp != previous_stamp:
            return False
        self._loaded_stamp = self._latest_stamp
        try:
            self.keys_by_list = {
                name: hash64s(items) for name, items in read_lists(self._path).items()
            }
        except (DeclarationError, OSError) as error:
            log.error("the editorial lists were refused, those before stay in force: %s", error)
            return False
        log.info(
            "editorial lists: %s",
            ", ".join(f"{name} ({keys.size})" for name, keys in self.keys_by_list.items())
            or "none",
        )
        return True

    def start(self) -> None:
        self.periodic_task.start()

    def stop(self) -> None:
        self.periodic_task.stop()


def read_lists(path: Path) -> dict[str, list[str]]:
    """Read the lists of a file, each item once; none where there is no file.

    Raises:
        DeclarationError: it is no TOML, or holds something that is no list of item ids; says where.
    """
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise DeclarationError(
            str(error), where=str(path), fix='such as summer = ["i17", "i93"]'
        ) from error
    for name, items in document.items():
        if not isinstance(items, list) or not all(isinstance(item, str) and item for item in items):
            raise DeclarationError(
                "expected a list of item ids, in quotes",
                where=f"{path}: {name}",
                fix=f'such as {name} = ["i17", "i93"]',
            )
    return {name: list(dict.fromkeys(items)) for name, items in document.items()}


def check_lists(path: Path, slots: Iterable[Slot]) -> Mapping[str, Sequence[str]]:
    """Read the lists of a file, and check that they include those that slots name.

    Raises:
        DeclarationError: as `read_lists`, or a slot names a list that is not there.
    """
    lists = read_lists(path)
    for slot in slots:
        for source in slot.sources:
            parsed_source = source_of(source)
            if parsed_source.kind == "editorial" and parsed_source.list_name not in lists:
                raise DeclarationError(
                    f"there is no list {parsed_source.list_name!r}",
                    where=f"slot {slot.name}, sources",
                    fix=f"declare it in {path}",
                )
    return lists
