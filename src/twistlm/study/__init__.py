"""Whole experiments: the quickstart, and the report that shows one."""
