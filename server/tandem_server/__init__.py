"""The provider's side: a jailed SFTP endpoint for tiers."""
