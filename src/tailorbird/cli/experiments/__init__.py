"""`tailorbird experiment`: plan, run, report and estimate."""
