"""Turn raw interactions into a prepared folder, without JAX.

Download, parsing, filters, ids, split and evaluation sets; prepare.py lists the folder's files.
"""
