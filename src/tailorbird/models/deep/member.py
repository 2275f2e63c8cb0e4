"""One of the processes of `parallel`, as they are started: one that ends with who started it, at
whatever moment that is.

python -m tailorbird.models.deep.member FOLDER RANK PARENT

Whoever started it may be killed while this one still loads torch, waits for the others, or learns.
An orphan would train on for nobody, and write where the next run writes. So it is watched before
anything else is loaded, by the id that the parent said of itself: once it is dead, this process is
somebody else's child.
"""

import os
import sys
import threading
import time
from pathlib import Path

LOOK_S = 0.1


def end_with(parent: int) -> None:
    """End this process once it is no child of `parent` any more; what waits in another thread, in
    gloo or NCCL, is no hindrance.
    """
    while os.getppid() == parent:
        time.sleep(LOOK_S)
    os._exit(1)


if __name__ == "__main__":
    threading.Thread(target=end_with, args=(int(sys.argv[3]),), daemon=True).start()
    from tailorbird.models.deep.parallel import take_part

    take_part(Path(sys.argv[1]), int(sys.argv[2]))
