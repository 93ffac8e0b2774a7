"""Readers of the parts of a request that several protocols share: encodings, JSON objects, parameters, ids, outcomes.

They know no protocol. Each takes text or bytes and gives values of a ping; none does I/O.
"""
