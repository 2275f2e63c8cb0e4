"""Layouts by somebody who had not seen the scorers; looked at once, at the end.

A table or sheet inside a file goes before its column, with a dot (`shop.sqlite:Invoice.Total`),
where the column's name alone may also stand. A value of `event_types` separates several right
answers by `|`, as roles do.
"""

from benchmarks.first_files.held_out import baskets, logs, media, reviews, shops
from benchmarks.first_files.layout import Layout

LAYOUTS: tuple[Layout, ...] = (
    *reviews.LAYOUTS,
    *media.LAYOUTS,
    *baskets.LAYOUTS,
    *shops.LAYOUTS,
    *logs.LAYOUTS,
)
