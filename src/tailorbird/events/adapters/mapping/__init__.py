"""Import of any CSV, JSON or Parquet file by a mapping file."""
