"""``python -m tandem_server``."""

from tandem_server.cli import main

main()
