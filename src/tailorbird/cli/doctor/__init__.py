"""`tailorbird doctor`: diagnose this machine and this project."""
