"""How often skills are installed: what installers report, and what is made of it."""
