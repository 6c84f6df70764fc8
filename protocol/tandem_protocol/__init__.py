"""What agent and server must agree on: names, formats, the tier protocol and the Store contract."""

__version__ = "0.1.0"
