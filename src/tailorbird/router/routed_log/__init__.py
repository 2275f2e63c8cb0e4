"""The routed log in a topic, its pruned blocks and its retention."""
