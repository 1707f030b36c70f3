"""canary: a server process answers real requests before anything is pushed."""
