"""Run the command line as `python -m tailorbird`, for when no script is on the path."""

from tailorbird.cli.main import run

if __name__ == "__main__":
    run()
