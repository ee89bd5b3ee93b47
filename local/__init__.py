"""Running the marketplace on one machine: setup/ prepares what host/ runs."""
