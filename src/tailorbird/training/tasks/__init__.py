"""What models are trained for, besides ranking: a folder a task, over the shared parts of `training`."""
