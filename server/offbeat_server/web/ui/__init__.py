"""The pages for people: `pages` has one module for each of them, `routes` lists their addresses.

The other modules are what pages are made of: their base, forms, rows, charts, filters of templates, live updates.
"""
