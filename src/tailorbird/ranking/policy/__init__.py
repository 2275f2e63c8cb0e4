"""From values to a slate: formula, rules, diversity and exploration."""
