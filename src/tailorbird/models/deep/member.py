"""Entry point of one process of `parallel`; it exits when the process that started it dies.

    python -m tailorbird.models.deep.member FOLDER RANK PARENT

The parent may be killed while this process still loads torch, waits for others, or trains. An
orphan would train for nothing, and write where the next run writes. So a watcher starts before
anything else is loaded, with the id that the parent passed: once the parent is dead, this process
has another parent id.
"""

import os
import sys
import threading
import time
from pathlib import Path

POLL_S = 0.1


def exit_with_parent(parent_pid: int) -> None:
    """Exit this process once it is no child of `parent_pid` any more.

    `os._exit` works even while another thread waits in gloo or NCCL.
    """
    while os.getppid() == parent_pid:
        time.sleep(POLL_S)
    os._exit(1)


if __name__ == "__main__":
    threading.Thread(target=exit_with_parent, args=(int(sys.argv[3]),), daemon=True).start()
    from tailorbird.models.deep.parallel import run_member

    run_member(Path(sys.argv[1]), int(sys.argv[2]))
