"""Settings: the table of them, where they come from, and what is wrong with them."""
