"""Reports of a training: pages, model cards and the cost of serving."""
