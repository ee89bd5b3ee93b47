"""What runs only inside the Workers runtime, and which code consumes which queue."""
