"""How numbers are made fast, never what they are: threads, products, memory, devices, batches."""
