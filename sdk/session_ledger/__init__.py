"""Wire formats of the session ledger: what buyers sign and sellers pass on."""
