"""How the sources stand, where they disagree, and what repairs it."""
