"""What other packages can do with this one; each file needs its package, and says so."""
