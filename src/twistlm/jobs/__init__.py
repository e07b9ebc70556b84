"""What a verb does between the command line and the rooms: find the parts, run, return plain values."""
