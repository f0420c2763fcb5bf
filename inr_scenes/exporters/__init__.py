"""What a field can be written as: one medium a file."""
