"""Suites of spoken pairs: the record, the published layouts, and the names they are known by."""
