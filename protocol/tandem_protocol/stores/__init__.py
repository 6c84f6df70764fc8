"""The stores: ways to keep named bytes somewhere. Each module stands alone.

Nothing is imported here: a backup to a folder does not load an SSH library.
"""
