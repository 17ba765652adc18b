"""What people take home: the joined, compressed model and its codes."""
