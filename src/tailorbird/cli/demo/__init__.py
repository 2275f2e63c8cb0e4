"""`tailorbird demo`: the whole loop on a synthetic shop, with a page to click on. The stages are in
`story`.
"""

import time
from pathlib import Path

from tailorbird.cli.output import Json, console, print_json, progress_bars


def demo(
    *,
    once: bool = False,
    folder: Path = Path("demo"),
    port: int | None = None,
    seed: int = 1,
    small: bool = False,
    json: Json = False,
) -> None:
    """Run the whole loop on a synthetic shop on this machine: no account, no download, nothing is
    sent anywhere.

    Makes a shop with a past, imports and trains on it, opens a page where every click changes the
    list, runs an experiment on simulated visitors, shifts their tastes, notices, trains anew, and
    prints every figure as measured.

    Example:  tailorbird demo

    Example:  tailorbird demo --once --json > figures.json

    Parameters
    ----------
    once:
        end when the loop is through, instead of keeping the shop open
    folder:
        where to put it; an earlier demo there is replaced
    port:
        of the page, 8642 or the next free one unless told otherwise
    seed:
        another seed is another shop
    small:
        a tenth of the size, too small for its figures to mean much: for tests
    """
    from tailorbird.cli.demo.figures import print_figures, say
    from tailorbird.cli.demo.scale import FULL, SMALL
    from tailorbird.cli.demo.story import Story

    with progress_bars(quiet=json) as progress:
        story = Story(
            folder, SMALL if small else FULL, seed=seed, port=port, quiet=json, progress=progress
        )
        try:
            figures = story.run()
        except BaseException:
            if story.shop is not None:
                story.shop.stop()
            raise
    assert story.shop is not None
    try:
        if json:
            print_json(figures.plain())
        else:
            print_figures(figures)
        if not once:
            say(f"\nThe shop stays open: {story.shop.url}/shop   Ctrl-C closes it.", quiet=json)
            while story.shop.alive():
                time.sleep(0.5)
            console(stderr=True).print("The shop's processes have ended.")
    finally:
        story.shop.stop()
