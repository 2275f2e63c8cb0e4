"""File layouts as publishers, shops and exports write them, and whether `init` reads them right."""
