"""What every skill database must do, held against the real PostgreSQL and the double alike."""
