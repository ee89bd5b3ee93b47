"""Reading the marketplace: listings, single skills, and the sources that answer."""
