"""`tailorbird scores tail`: print scores as they are appended."""

import sys
import time
from contextlib import suppress

from tailorbird.cli.output import console


def tail(*, start: int = 0, follow: bool = False) -> None:
    """Print the scores of the score role, one JSON object per line.

    At the end the command prints to stderr the position to continue from. Servers return the same
    lines: `GET /v1/scores?start=N`.

    Example:  tailorbird -C shop scores tail

    Example:  tailorbird -C shop scores tail --start 81234 --follow

    Parameters
    ----------
    start:
        position to start from, as printed at the end of the last call
    follow:
        wait for more scores, until Ctrl-C
    """
    import msgspec

    from tailorbird.config import open_project
    from tailorbird.platform.models.score_log import open_scores

    position = start
    with open_scores(open_project(use_applied=True)) as feed, suppress(KeyboardInterrupt):
        while True:
            for page in feed.iterate_from(position):
                for score in page.scores:
                    sys.stdout.write(msgspec.json.encode(score).decode() + "\n")
                position = page.next
            sys.stdout.flush()
            if not follow:
                break
            time.sleep(0.2)
    console(stderr=True).print(f"continue with:  --start {position}")
