"""What a skill is, and the rules about it. No I/O."""
