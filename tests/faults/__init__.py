"""Every write of a verb fails in turn, and what it says and leaves is looked at, as SQLite's tests do."""
