"""What is on disk, in the cache, behind a URL: written whole or not at all, read with checks, known by hash."""
