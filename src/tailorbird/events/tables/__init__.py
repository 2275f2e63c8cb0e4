"""Tables in files of any usual form: CSV, TSV, JSON and Parquet, packed or not, read in batches of
columns.

    file ──encodings──► UTF-8 ──quotes──► whole rows ──columns──► batches
             forms: delimiter, header, decimal sign        times: the form of a column of times

`adapters.mapping` turns rows into events, `events.guess` infers what columns mean.
"""
