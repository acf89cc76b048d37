"""`python -m cli` is `moe-cluster`."""

from cli.app import main

main()
