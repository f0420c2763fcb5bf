"""Signal types: one medium a file."""
