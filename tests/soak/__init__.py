"""The long campaigns behind `make soak`; their quick forms are in tests/scenarios."""
