"""What is written for speed alone.

Each module states a ``formula``, a few lines of torch, and beside it the fast function that must equal it.
"""
