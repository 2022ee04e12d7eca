"""`eval-ext` as a user calls it."""

from click.testing import CliRunner

from metrics.cli import main


def call(*arguments):
    return CliRunner().invoke(main, [str(a) for a in arguments], prog_name="eval-ext")


def ok(*arguments):
    result = call(*arguments)
    assert result.exit_code == 0, result.output
    return result


def refused(*arguments, says, silent=True):
    """Exit status 1 and one `Error:` line, the last, that holds `says`; nothing on standard output if `silent`."""
    result = call(*arguments)
    assert isinstance(result.exception, SystemExit), repr(result.exception)
    assert result.exit_code == 1
    errors = [line for line in result.stderr.splitlines() if line.startswith("Error:")]
    assert len(errors) == 1 and result.stderr.splitlines()[-1] == errors[0]
    assert "Traceback" not in result.stderr
    assert result.stdout == "" or not silent
    assert says in errors[0], result.stderr
    return result
