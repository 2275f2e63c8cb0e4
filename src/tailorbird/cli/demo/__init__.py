"""`tailorbird demo`: the complete loop on a synthetic shop, with a page to click on.

The stages are in `story`.
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
    """Run the complete loop on a synthetic shop on this machine.

    The demo needs no account and no download, and sends nothing anywhere.

    It creates a shop with a history, imports it and trains a model. It opens a page where every
    click changes the list, and runs two experiments on simulated visitors, of which it stops one by
    its rule. Then it shifts their tastes, detects the fall, names its likely cause, and leads a new
    model through shadow and canary. It promotes a broken model, which is rolled back, and prints
    the last 24 hours and all measured figures.

    Example:  tailorbird demo

    Example:  tailorbird demo --once --json > figures.json

    Parameters
    ----------
    once:
        end when the loop is complete, instead of keeping the shop open
    folder:
        folder of the demo; an earlier demo there is replaced
    port:
        port of the page; by default 8642 or the next free one
    seed:
        random seed; another seed creates another shop
    small:
        run at a tenth of the size, for tests; the figures then mean little
    """
    from tailorbird.cli.demo.figures import print_figures, say
    from tailorbird.cli.demo.scale import FULL_SCALE, SMALL_SCALE
    from tailorbird.cli.demo.story import Story

    with progress_bars(quiet=json) as progress:
        story = Story(
            folder,
            SMALL_SCALE if small else FULL_SCALE,
            seed=seed,
            port=port,
            quiet=json,
            progress=progress,
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
            print_json(figures.to_dict())
        else:
            print_figures(figures)
        if not once:
            say(f"\nThe shop stays open: {story.shop.url}/shop   Ctrl-C closes it.", quiet=json)
            while story.shop.is_alive():
                time.sleep(0.5)
            console(stderr=True).print("The shop's processes have ended.")
    finally:
        story.shop.stop()
