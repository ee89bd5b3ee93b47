"""What programs ask that people already have: `skills`, `clawhub`, `vskill`. One file a client."""
