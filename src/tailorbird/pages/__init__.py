"""Report pages: Jinja2 templates with one stylesheet, as files that load nothing from the network.

write_page(path, "tuning", title, report=report)    pages/templates/tuning.html
"""

import math
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from tailorbird.atomic_write import atomic_write

if TYPE_CHECKING:
    from jinja2 import Environment
    from markupsafe import Markup


class Estimate(Protocol):
    """A figure with the ends of its interval, which may be NaN."""

    @property
    def value(self) -> float: ...
    @property
    def low(self) -> float: ...
    @property
    def high(self) -> float: ...


def write_page(path: Path, template: str, title: str, **values: Any) -> Path:
    """Write the page that a template makes of values, and return its path.

    Args:
        template: name of a file in `pages/templates`, without `.html`.
        values: what the template shows; text is escaped unless it is `Markup`.
    """
    atomic_write(path, render(template, title=title, **values).encode())
    return path


def render(template: str, **values: Any) -> str:
    """Return the HTML that a template makes of values; text is escaped unless it is `Markup`."""
    return _create_environment().get_template(f"{template}.html").render(values)


@cache
def _create_environment() -> "Environment":
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("tailorbird.pages"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    environment.filters |= {
        "number": format,
        "interval": _format_interval,
        "short": _format_setting,
    }
    environment.tests["finite"] = _is_finite
    return environment


def _format_interval(estimate: Estimate, sign: str = "") -> "Markup | str":
    """Format a figure with its interval, if there is one; `sign` is "+" for differences."""
    from markupsafe import Markup

    if not math.isfinite(estimate.value):
        return "–"
    text = format(estimate.value, f"{sign}.4f")
    if not (math.isfinite(estimate.low) and math.isfinite(estimate.high)):
        return text
    low = format(estimate.low, f"{sign}.4f")
    high = format(estimate.high, f"{sign}.4f")
    return Markup(f"{text} <small>{low} … {high}</small>")


def _is_finite(value: Any) -> bool:
    return math.isfinite(value)


def _format_setting(value: Any) -> str:
    """Format a setting; fractions have four significant digits."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)
