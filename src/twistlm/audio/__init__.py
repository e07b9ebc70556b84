"""Sound files in and out: reading, mixing to mono, resampling, writing. No torch."""
