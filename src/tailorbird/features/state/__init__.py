"""The records of entities: accumulators, tiles, packing and eviction."""
