"""Users and items of the load, in a module that costs a sender nothing to import."""

PEOPLE = [f"u{n}" for n in range(25)]
ITEMS = [f"i{n}" for n in range(30)]
