"""`python -m circuits`: the `circuits` command."""

from circuits.cli import main

main()
