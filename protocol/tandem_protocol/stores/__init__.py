"""The stores: ways to keep named bytes somewhere. Each module stands alone; `urls` picks one by its address.

Nothing is imported here: a backup to a folder does not load an SSH library.
"""
