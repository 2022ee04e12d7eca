"""The console script `eval-ext`: checks the generic import names, then runs `metrics.cli`.

It lives here because a script that starts in `metrics` fails inside a `metrics` that shadows ours.
"""

import sys

from lm_eval_ext.autoload import check_import_names


def main() -> None:
    """Run `metrics.cli:main`, or exit with one line and status 1 when `metrics` or `tasks` is not ours."""
    try:
        check_import_names()
    except ImportError as error:
        sys.exit(f"Error: {error}")
    from metrics.cli import main as command

    command()
