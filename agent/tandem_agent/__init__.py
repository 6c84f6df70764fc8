"""The Tandem agent: backs up, restores and keeps the tiers level."""
