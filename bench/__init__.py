"""The benchmark: Tandem beside restic, OpenSSH's sftp and a plain copy, in turn, on this machine."""
