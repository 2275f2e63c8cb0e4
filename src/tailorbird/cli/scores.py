"""`tailorbird scores tail`."""

import sys
import time

from tailorbird.cli.output import console


def tail(*, start: int = 0, follow: bool = False) -> None:
    """Print the scores that the score role appended, one JSON object a line, from the oldest that
    is kept or a position.

    The position to go on from next time is told at the end, on the other output. Servers give the
    same: `GET /v1/scores?start=N`.

    Example:  tailorbird -C shop scores tail

    Example:  tailorbird -C shop scores tail --start 81234 --follow

    Parameters
    ----------
    start:
        the position, as the last reading told it
    follow:
        wait for more, until Ctrl-C
    """
    import msgspec

    from tailorbird.config import open_project
    from tailorbird.errors import NotReadyError
    from tailorbird.serving.score_log import ScoreFeed, not_scored_error, scores_address

    feed = ScoreFeed(scores_address(open_project(applied=True).stream))
    at = start
    try:
        while True:
            for found in feed.iterate_from(at):
                for score in found.scores:
                    sys.stdout.write(msgspec.json.encode(score).decode() + "\n")
                at = found.next
            sys.stdout.flush()
            if not follow:
                break
            time.sleep(0.2)
    except NotReadyError as error:
        raise not_scored_error(error) from None
    except KeyboardInterrupt:
        pass
    finally:
        feed.close()
    console(stderr=True).print(f"go on from:  --start {at}")
