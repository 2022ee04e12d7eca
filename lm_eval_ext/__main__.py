"""`python -m lm_eval_ext ...`: lm-eval's own command line plus `hf-store`, start-up hook or not."""

import sys

from lm_eval_ext.autoload import check_import_names, register
from lm_eval_ext.versions import check_versions


def main() -> None:
    """Register `hf-store`, then hand over to lm-eval's `cli_evaluate`, which reads `sys.argv` as ever.

    Exits with one line and status 1 when another module shadows `metrics` or `tasks`, or a host is too old.
    """
    try:
        check_import_names()
        check_versions()
    except ImportError as error:
        sys.exit(f"Error: {error}")
    register()
    from lm_eval.__main__ import cli_evaluate

    cli_evaluate()


if __name__ == "__main__":
    main()
