"""What is asked of a store and what its answers mean: no I/O, and no Pyramid."""
