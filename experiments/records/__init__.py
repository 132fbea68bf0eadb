"""The record of what was tried, docs/records: reading it, and the pages and the picture that are made of it."""
