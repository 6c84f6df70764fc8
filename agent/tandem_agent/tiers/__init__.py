"""Tiers: named stores with an identity, a revision and a state; looking at them and writing to them.

``contact`` reads what stands on a tier, ``tier`` judges and mends it, ``tierset`` holds them together,
``writing`` carries out one write operation, ``levelling`` brings a lagging tier up to the head.
"""
