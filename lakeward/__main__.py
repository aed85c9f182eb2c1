"""`python -m lakeward`: the command line, by the interpreter that is to run the job."""

from lakeward.cli.main import main

if __name__ == "__main__":
    main(prog_name="lakeward")
