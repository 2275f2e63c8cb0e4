"""`tailorbird up` and `tailorbird run`: the roles of a project."""
