"""Turns raw interactions into a prepared folder. Knows nothing of JAX.

Download, parsing, filters, ids, split and evaluation sets; prepare.py lists the folder's files.
"""
