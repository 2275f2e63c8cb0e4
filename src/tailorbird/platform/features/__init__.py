"""The features of a project: parity with the lake, changes of their schema, their ranking."""
