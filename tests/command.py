"""Running `circuits` commands in this process, as the shell would run them."""

import sys
from unittest.mock import patch

from circuits.cli import main


def exit_code(*arguments: object) -> int:
    """The exit code of `circuits ARGUMENTS`."""
    with patch.object(sys, "argv", ["circuits", *map(str, arguments)]):
        try:
            main()
        except SystemExit as end:
            return int(end.code or 0)
    return 0
