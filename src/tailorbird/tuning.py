"""Search for better settings: `tb.tuning.tune(shop, "home", trials=50)`."""

from typing import Any, Protocol

__all__ = ["tune"]


class TunableProject(Protocol):
    """A project, as `tailorbird.Project`."""

    def tune(self, slot: str = "", **options: Any) -> Any: ...


def tune(shop: TunableProject, slot: str = "", **options: Any) -> Any:
    """Search for better settings than the defaults on several splits in time.

    Args:
        shop: the project.
        slot: "" takes `train.slot`.
        options: as of `Project.tune`, such as `trials` and `architectures`.
    """
    return shop.tune(slot, **options)
