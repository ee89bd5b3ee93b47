"""Running the marketplace on one machine: setup/ makes ready what host/ runs."""
