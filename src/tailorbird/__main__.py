"""`python -m tailorbird`: the command line, also where no script is on the path."""

from tailorbird.cli.main import run

if __name__ == "__main__":
    run()
