"""Who the load of these tests comes from, and of what: a module that costs a sender nothing to
import.
"""

PEOPLE = [f"u{n}" for n in range(25)]
ITEMS = [f"i{n}" for n in range(30)]
