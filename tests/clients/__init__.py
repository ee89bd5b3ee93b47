"""The programs that people already have, as they are, against the running Worker."""
