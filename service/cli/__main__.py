"""`python -m service.cli`, for children that are started by path and not by name."""

from service.cli.main import main

main()
