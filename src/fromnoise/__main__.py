"""``python -m fromnoise``, which is also what ``accelerate launch -m fromnoise`` runs."""

import sys

from fromnoise.cli import main

sys.exit(main())
