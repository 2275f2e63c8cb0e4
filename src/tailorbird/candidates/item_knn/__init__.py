"""Item-kNN: what people have within a few events of each other."""
