"""``python -m edgetrack`` is the ``edgetrack`` command."""

from edgetrack.cli import main

main()
