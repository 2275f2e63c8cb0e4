"""`tailorbird lake`: verify, repair and maintain the lake, and erase people."""
