"""The use cases: one function for each thing that people and programs can do, with a typed command and a typed result.

The API, the pages, a configuration file and auto-provisioning call them. A use case checks what the data must allow,
writes in one transaction under the changes lock, and wakes the parts that follow the change. It knows no HTTP.
"""
