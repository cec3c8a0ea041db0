"""A run as data: YAML with located errors, its JSON schema, and the named pipelines.

It runs nothing and opens no model.
"""
