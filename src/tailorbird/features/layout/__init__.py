"""The layout of records and the steps of columns, compiled from declarations."""
